"""Teachers that know nothing: the uniform control's directions."""

import jax.numpy as jnp
import numpy as np

from cusa_jax.teachers.apply import teacher_features
from cusa_jax.teachers.control import UNIFORM_DIM, uniform_teachers
from cusa_jax.types import Batch

ROWS = 6


def uniform_features(image, caption):
    image, caption = np.asarray(image, np.int32), np.asarray(caption, np.int32)
    pixels, tokens = np.zeros((len(image), 2, 2, 3), np.uint8), np.zeros((len(image), 4), np.int32)
    return teacher_features(*uniform_teachers(), Batch(pixels, tokens, image, caption, image, caption))


def test_uniform_directions_are_the_samples_own_and_nearly_orthogonal():
    image = [0, 1, 2, 0, 4, 5]
    features = uniform_features(image, range(ROWS))
    for values in features:
        assert values.shape == (ROWS, UNIFORM_DIM)
        assert values.dtype == jnp.float32
    unit = [np.asarray(x / jnp.linalg.norm(x, axis=1, keepdims=True)) for x in features]
    cosines = unit[0] @ unit[0].T
    assert cosines[0, 3] > 0.999  # the same image twice
    others = ~np.eye(ROWS, dtype=bool)
    others[0, 3] = others[3, 0] = False
    assert np.abs(cosines[others]).max() < 0.2  # 4.5 standard deviations of a random cosine
    assert np.abs(unit[1] @ unit[1].T)[~np.eye(ROWS, dtype=bool)].max() < 0.2
    assert np.abs((unit[0] * unit[1]).sum(1)).max() < 0.2  # image n and caption n are not alike either


def test_the_same_sample_has_the_same_direction_in_any_batch():
    one, _ = uniform_features([5, 7], [0, 1])
    two, _ = uniform_features([7, 3], [2, 3])
    np.testing.assert_array_equal(one[1], two[0])

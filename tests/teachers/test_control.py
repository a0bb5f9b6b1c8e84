"""Teachers that know nothing: the uniform control's directions, and who is asked what."""

import jax.numpy as jnp
import numpy as np

from cusa_jax.teachers.control import UNIFORM_DIM, teacher_features, uniform_teachers
from cusa_jax.types import Batch, Teacher, Teachers

ROWS = 6
TABLES = {"image": np.eye(9, 4, dtype=np.float32), "text": np.arange(36, dtype=np.float32).reshape(9, 4)}
LOOK_UP = Teacher("table", None, lambda table, index: table[index], "index")


def batch(image, caption, **fields) -> Batch:
    image, caption = np.asarray(image, np.int32), np.asarray(caption, np.int32)
    return Batch(np.zeros((len(image), 2, 2, 3), np.uint8), np.zeros((len(image), 4), np.int32), image, caption,
                 **{"teacher_index_image": image, "teacher_index_text": caption, **fields})  # fmt: skip


def uniform_features(batch):
    return teacher_features(uniform_teachers(), {"image": {}, "text": {}}, batch)


def test_uniform_directions_are_the_samples_own_and_nearly_orthogonal():
    image = [0, 1, 2, 0, 4, 5]
    features = uniform_features(batch(image, range(ROWS)))
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
    one, _ = uniform_features(batch([5, 7], [0, 1]))
    two, _ = uniform_features(batch([7, 3], [2, 3]))
    np.testing.assert_array_equal(one[1], two[0])


def test_teachers_see_what_the_batch_shows_them():
    """A shuffled batch names other samples than the student's."""
    shown = batch([0, 1], [2, 3], teacher_index_image=np.int32([4, 5]), teacher_index_text=np.int32([6, 7]))
    image, text = teacher_features(Teachers(LOOK_UP, LOOK_UP), TABLES, shown)
    np.testing.assert_array_equal(image, TABLES["image"][[4, 5]])
    np.testing.assert_array_equal(text, TABLES["text"][[6, 7]])

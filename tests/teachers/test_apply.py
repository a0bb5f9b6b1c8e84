"""What every step asks of its teachers: the samples that the batch shows them, and cosines at any scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import similarity
from cusa_jax.teachers.apply import teacher_features
from cusa_jax.teachers.scale import in_range
from cusa_jax.types import Batch, Teacher, Teachers

LOOK_UP = Teacher("table", lambda table, index: table[index], "index")
RNG = np.random.default_rng(0)
TABLES = {side: RNG.normal(size=(9, 4)).astype(np.float32) for side in ("image", "text")}


def batch(image, caption, shown_image, shown_caption) -> Batch:
    """A batch of these samples, whose teachers are shown others."""
    pixels, tokens = np.zeros((len(image), 2, 2, 3), np.uint8), np.zeros((len(image), 4), np.int32)
    return Batch(pixels, tokens, *(np.int32(x) for x in (image, caption, shown_image, shown_caption)))


def test_teachers_see_what_the_batch_shows_them():
    image, text = teacher_features(Teachers(LOOK_UP, LOOK_UP), TABLES, batch([0, 1], [2, 3], [4, 5], [6, 7]))
    for features, expected in ((image, TABLES["image"][[4, 5]]), (text, TABLES["text"][[6, 7]])):
        assert features.dtype == jnp.float32
        unit, expected_unit = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, expected))
        np.testing.assert_allclose(unit, expected_unit, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e37, 1e-33])
def test_soft_labels_do_not_depend_on_the_features_scale(scale):
    numbers = list(range(9))
    batch_of_all = batch(numbers, numbers, numbers, numbers)

    @jax.jit
    def labels(tables):
        return similarity.teacher(*teacher_features(Teachers(LOOK_UP, LOOK_UP), tables, batch_of_all))

    scaled = labels({side: table * np.float32(scale) for side, table in TABLES.items()})
    for side, table in TABLES.items():
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        np.testing.assert_allclose(getattr(scaled, side), unit @ unit.T, atol=1e-6)


def test_cosines_keep_every_bit_where_norms_fit_float32():
    features = jnp.asarray(RNG.normal(size=(40, 300)) * 10.0 ** RNG.integers(-4, 5, (40, 1)), jnp.float32)
    whole, scaled = (similarity.teacher_directions(x) for x in (features, in_range(features)))
    np.testing.assert_array_equal(scaled, whole)


def test_rows_without_a_direction_stay_as_they_are():
    rows = jnp.asarray([[0, 0], [np.nan, 1], [np.inf, 1], [3, -4]], jnp.float32)
    np.testing.assert_array_equal(in_range(rows), [[0, 0], [np.nan, 1], [np.inf, 1], [3 / 8, -4 / 8]])

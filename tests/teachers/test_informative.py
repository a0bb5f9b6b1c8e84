"""Teachers that tell nothing apart are refused; samples that a teacher cannot tell apart are warned of."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.sharding import make_mesh
from cusa_jax.teachers.informative import check_live, check_table
from cusa_jax.types import Teacher

RNG = np.random.default_rng(0)
DIRECTION = RNG.normal(size=12).astype(np.float32)
LENGTHS = RNG.uniform(0.1, 9, size=(600, 1)).astype(np.float32)


@pytest.mark.parametrize("scale", [1, 1e30, 1e-30])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_of_one_direction_are_refused_whatever_their_lengths(scale, dtype):
    constant = (
        np.broadcast_to(DIRECTION, (600, 12)) * (LENGTHS if dtype == np.float32 else 1) * np.float32(scale)
    )
    if dtype == np.float16:
        constant = (constant / scale).astype(dtype)
    with pytest.raises(InputError, match=r"^x\.npz: the features of all 600 samples have one direction"):
        check_table("x.npz", constant)


@pytest.mark.parametrize("row", [0, 300, 599])
@pytest.mark.parametrize("other", [-DIRECTION, DIRECTION + np.eye(12, dtype=np.float32)[3] * 0.01])
def test_one_other_direction_is_enough(row, other):
    features = DIRECTION * LENGTHS
    features[row] = other
    check_table("x.npz", features)


def test_rows_that_were_left_out_and_a_single_sample_are_no_constants():
    features = DIRECTION * LENGTHS
    features[0], features[1:300], features[400] = np.nan, np.nan, -DIRECTION
    check_table("bank", features)
    check_table("bank", features[-1:])


def pixel_teacher(weights) -> tuple[Teacher, np.ndarray]:
    def apply(params, pixels):
        return pixels.reshape(len(pixels), -1).astype(jnp.float32) @ params + params.sum(0)

    return Teacher("some/teacher", apply, "pixels"), weights.astype(np.float32)


IMAGES = list(RNG.integers(0, 256, (5, 4, 4, 3), np.uint8))


def test_a_live_teacher_that_is_constant_is_refused():
    check_live(*pixel_teacher(RNG.normal(size=(48, 7))), IMAGES, make_mesh(fsdp=2))
    # One direction, of lengths that differ.
    constant = np.ones((48, 1)) * RNG.normal(size=7)
    for weights in (constant, np.zeros((48, 7))):
        with pytest.raises(InputError, match=r"^some/teacher: this teacher gives 5 different samples"):
            check_live(*pixel_teacher(weights), IMAGES, make_mesh(fsdp=2))


def test_samples_that_are_all_the_same_to_the_teacher_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        check_live(*pixel_teacher(RNG.normal(size=(48, 7))), IMAGES[:1] * 3, make_mesh())
    assert "some/teacher: this teacher is given the same input for each of 3 samples" in caplog.text

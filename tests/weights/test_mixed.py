"""Weights between two models: the mean, leaf by leaf, and what cannot be mixed."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.models import families
from cusa_jax.models.student import Options
from cusa_jax.weights.formats import read_weights, write_weights
from cusa_jax.weights.hub import Weights
from cusa_jax.weights.mixed import mixed

SIZES = families.edited(families.presets()["toy"][1], "vision_layers=1,text_layers=1,vocab_size=64")


@functools.cache
def weights(seed, heads=(), kind="linear") -> Weights:
    student = families.make("clip", SIZES, Options(heads=heads, head_kind=kind))
    variables = jax.device_get(jax.jit(student.init)(jax.random.key(seed)))
    return Weights("clip", SIZES, variables, heads, {"tau_contrastive": np.float32(0.01 * (seed + 1))})


def test_every_array_lies_between(tmp_path):
    first, second = weights(0), weights(1)
    write_weights(tmp_path / "mixed.safetensors", mixed(first, second, 0.25))
    read = read_weights(tmp_path / "mixed.safetensors")
    triples = zip(*(jax.tree.leaves(one.variables) for one in (read, first, second)), strict=True)
    for ours, a, b in triples:
        np.testing.assert_allclose(ours, 0.75 * a + 0.25 * b, rtol=1e-6, atol=1e-7)
    assert read.scalars == {"tau_contrastive": pytest.approx(0.02)}


def test_residual_heads_that_one_lacks_are_the_identity():
    plain, trained = weights(0), weights(1, ("cross",), "residual")
    half = mixed(plain, trained, 0.5)
    assert (half.heads, half.head_kind) == (("cross",), "residual")
    kernel = trained.variables["params"]["cross_image"]["linear"]["kernel"]
    np.testing.assert_array_equal(half.variables["params"]["cross_image"]["linear"]["kernel"], 0.5 * kernel)
    for whole, weight in ((plain, 0.0), (trained, 1.0)):
        ends = mixed(plain, trained, weight).variables["params"]["image"]
        jax.tree.map(np.testing.assert_array_equal, ends, whole.variables["params"]["image"])


def test_what_cannot_be_mixed_is_said():
    with pytest.raises(
        InputError, match=r"only one has linear heads \(cross\), which do not begin as the identity"
    ):
        mixed(weights(0), weights(1, ("cross",)), 0.5)
    other = dataclasses.replace(weights(1), sizes=families.presets()["toy"][1])
    with pytest.raises(InputError, match="models cannot be mixed: their sizes differ"):
        mixed(weights(0), other, 0.5)
    with pytest.raises(InputError, match=r"mix=1\.5 must be from 0"):
        mixed(weights(0), weights(1), 1.5)

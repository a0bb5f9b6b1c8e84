"""LoRA against its formula: what is added, its gradients, which matrices have one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cusa_jax import lora
from cusa_jax.errors import InputError
from cusa_jax.models import families
from cusa_jax.models.student import Options

PARAMS = {
    "image": {
        "transformer": {"block_0": {"fc": {"kernel": np.ones((6, 8), np.float32), "bias": np.ones(8)}}}
    },
    "text": {"transformer": {"block_0": {"fc": {"kernel": np.full((4, 4), 2.0, np.float32)}}}},
}
PATH = ("image", "transformer", "block_0", "fc", "kernel")


def thin(value, *path):
    """The thin matrices at a path."""
    for name in path:
        value = value[name]
    return np.asarray(value["a"], np.float64), np.asarray(value["b"], np.float64)


def test_a_fresh_one_changes_nothing():
    fresh = lora.init(PARAMS, lora.PROJECTIONS, 2, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, lora.merge(PARAMS, fresh, 4.0), PARAMS)


def test_its_matrices_are_drawn_as_a_dense_layer():
    kernel = jax.ShapeDtypeStruct((400, 300), jnp.float32)
    a, b = thin(lora.init({"kernel": kernel}, "kernel", 300, jax.random.key(0)), "kernel")
    assert a.shape == (400, 300)
    assert b.shape == (300, 300)
    assert not b.any()
    assert 0.99 / 20 < np.abs(a).max() <= 1 / 20
    np.testing.assert_allclose(a.std(), 1 / 20 / np.sqrt(3), rtol=0.01)


def test_the_scaled_product_is_added_and_its_gradients_are_the_formulas():
    start = lora.init(PARAMS, "image/.*/kernel", 3, jax.random.key(0))
    rng = np.random.default_rng(0)
    start = jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape).astype(np.float32), start)
    direction = rng.normal(size=(6, 8)).astype(np.float32)

    def total(thin_matrices):
        merged = lora.merge(PARAMS, thin_matrices, 0.5)
        return (merged["image"]["transformer"]["block_0"]["fc"]["kernel"] * direction).sum(), merged

    (_, merged), gradients = jax.value_and_grad(total, has_aux=True)(start)
    (a, b), (by_a, by_b) = thin(start, *PATH), thin(gradients, *PATH)
    flat = traverse_util.flatten_dict(merged)
    np.testing.assert_allclose(flat[PATH], 1 + 0.5 * a @ b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_a, 0.5 * direction @ b.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_b, 0.5 * a.T @ direction, rtol=1e-4, atol=1e-5)
    assert (merged["text"]["transformer"]["block_0"]["fc"]["kernel"] == 2).all()


def test_each_matrix_draws_for_itself():
    both = lora.init(PARAMS, lora.PROJECTIONS, 2, jax.random.key(1))
    one = lora.init(PARAMS, "image/.*/kernel", 2, jax.random.key(1))
    np.testing.assert_array_equal(thin(one, *PATH)[0], thin(both, *PATH)[0])
    assert set(one) == {"image"}


@pytest.mark.parametrize(
    ("preset", "matrices"),
    [("toy", 4 * (2 + 2)), ("siglip_b_16_224", 4 * (12 + 1 + 12))],  # SigLIP's pooling head has four too
)
def test_the_projections_of_attention_and_mlps_have_one(preset, matrices):
    family, sizes = families.presets()[preset]
    model = families.make(family, sizes, Options())
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    shapes = jax.eval_shape(lambda key: lora.init(params, lora.PROJECTIONS, 8, key), jax.random.key(0))
    assert len(traverse_util.flatten_dict(shapes)) == 2 * matrices


@pytest.mark.parametrize(
    ("pattern", "rank", "message"),
    [
        (lora.PROJECTIONS, 5, r"rank 5 for text/transformer/block_0/fc/kernel, which is 4 x 4: take 1 to 4"),
        (lora.PROJECTIONS, 0, "rank 0 for image/transformer/block_0/fc/kernel, which is 6 x 8: take 1 to 6"),
        (
            "video/.*",
            2,
            "'video/.*' matches nothing; a path of a matrix is image/transformer/block_0/fc/kernel",
        ),
        (".*/bias", 2, "'.*/bias' matches only vectors, such as image/transformer/block_0/fc/bias"),
        ("(", 2, "'[(]' is no regular expression"),
    ],
)
def test_patterns_and_ranks_that_do_not_fit_are_refused(pattern, rank, message):
    with pytest.raises(InputError, match=message):
        lora.init(PARAMS, pattern, rank, jax.random.key(0))


def test_those_of_another_model_are_refused():
    other = {"image": {"transformer": {"block_0": {"fc": {"kernel": np.ones((6, 4), np.float32)}}}}}
    with pytest.raises(InputError, match=r"fc/kernel is of shape \(6, 8\), but trained was 6 x 4"):
        lora.merge(PARAMS, lora.init(other, ".*", 2, jax.random.key(0)), 1.0)
    with pytest.raises(InputError, match="image/head is not among the model's parameters"):
        lora.merge(PARAMS, {"image": {"head": {"a": np.ones((2, 1)), "b": np.ones((1, 2))}}}, 1.0)

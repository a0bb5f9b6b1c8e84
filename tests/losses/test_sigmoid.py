"""The sigmoid loss against transformers' SigLIP models, against its closed-form gradient, and tiled against dense.

Goldens: embeddings, scale, bias, logits, loss and gradients of `SiglipModel` and `Siglip2Model` (transformers 4.57.6,
torch on CPU, in float32 and float64, tiny models with formula-made weights).
"""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import losses, objective, scalars, sharding
from cusa_jax.config import default_config
from cusa_jax.types import Embeddings

GOLDEN = golden.arrays("siglip_loss")
CASES = ("s1", "s2", "naflex_s")  # the last is SigLIP 2
TOLERANCE = {"f32": 1e-6, "f64": 1e-12}


def of_golden(case, dtype):
    """The loss by (similarities, tau, bias) and these three. SigLIP learns the logarithm of 1/tau."""
    read = {name: GOLDEN[f"{case}/{dtype}/{name}"] for name in ("image_embeds", "text_embeds")}
    image_text = read["image_embeds"] @ read["text_embeds"].T
    tau = np.exp(-GOLDEN[f"{case}/logit_scale"].astype(golden.DTYPES[dtype]))
    bias = GOLDEN[f"{case}/logit_bias"].astype(golden.DTYPES[dtype])
    return (lambda s, tau, bias: losses.sigmoid(s, None, tau, bias)), (image_text, tau, bias)


@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_logits_and_loss_equal_siglip(case, dtype):
    with golden.precision(dtype):
        loss, (image_text, tau, bias) = of_golden(case, dtype)
        logits = GOLDEN[f"{case}/{dtype}/logits_per_text"]
        golden.assert_close(
            f"sigmoid logits {dtype}", image_text.T / tau + bias, logits, 0, 50 * TOLERANCE[dtype]
        )
        value = golden.jit(loss)(image_text, tau, bias)
        golden.assert_close(f"sigmoid loss {dtype}", value, GOLDEN[f"{case}/{dtype}/loss"], TOLERANCE[dtype])


@pytest.mark.parametrize("case", CASES)
def test_gradients_by_scale_and_bias_equal_siglip(case):
    with golden.precision("f64"):
        loss, arguments = of_golden(case, "f64")
        by_tau, by_bias = golden.jit(jax.grad(loss, argnums=(1, 2)))(*arguments)
        # d tau / d log(1/tau) = -tau
        golden.assert_close(
            "sigmoid gradient", -arguments[1] * by_tau, GOLDEN[f"{case}/grad_logit_scale"], 1e-12
        )
        golden.assert_close("sigmoid gradient", by_bias, GOLDEN[f"{case}/grad_logit_bias"], 1e-12)


def test_captions_of_one_image_are_all_positives_and_groups_are_averaged():
    """The gradient by a logit is its probability minus what the pair is."""
    rng = np.random.default_rng(5)
    image_text, ids = rng.uniform(-1, 1, (2, 6, 6)), np.array([[0, 1, 1, 2, 0, 3], [4, 4, 4, 5, 6, 7]])
    with golden.precision("f64"):
        gradient = jax.grad(losses.sigmoid)(image_text, ids, 0.2, -1.0)
    probability = 1 / (1 + np.exp(-(image_text / 0.2 - 1.0)))
    positive = ids[:, :, None] == ids[:, None, :]
    np.testing.assert_allclose(gradient, (probability - positive) / (0.2 * 12), rtol=1e-12)


def test_tiled_equals_dense_on_one_device_and_on_eight():
    """With gradients by embeddings, temperature and bias."""
    rng = np.random.default_rng(7)
    loss = default_config().loss
    for term, weight in (("contrastive", 0.5), ("csa", 0.0), ("usa", 0.0), ("sigmoid", 2.0)):
        loss[term].weight = weight
    loss.sigmoid.bias.init = -3.0
    specs = scalars.specifications(loss)
    start = {name: spec.init for name, spec in specs.items()}
    embeddings = Embeddings(*(rng.normal(size=(72, 16)) for _ in range(4)))
    ids = rng.integers(0, 24, 72)

    def evaluate(tile, mesh=None):
        own = loss.copy_and_resolve_references()
        own.tile = tile
        run = functools.partial(objective.of_embeddings, loss=own, mesh=mesh)
        rows = (
            (embeddings, ids)
            if mesh is None
            else jax.device_put((embeddings, ids), sharding.batch_sharding(mesh))
        )
        step = jax.value_and_grad(lambda e, s, ids: run(e, None, ids, s), argnums=(0, 1), has_aux=True)
        return jax.device_get(golden.jit(step)(rows[0], start, rows[1]))

    with jax.enable_x64(True):
        expected = evaluate(0)
        assert expected[0][1].keys() == {"contrastive", "sigmoid"}
        assert all(jnp.abs(expected[1][1][name]) > 0 for name in ("tau_sigmoid", "bias_sigmoid"))
        for tile, mesh in ((10, None), (4, sharding.make_mesh(fsdp=2))):
            close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-13)
            jax.tree.map(close, evaluate(tile, mesh), expected)

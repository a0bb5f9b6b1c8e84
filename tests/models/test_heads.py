"""The reference's whole forward pass behind its encoders: heads, losses, and which heads there are."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import scalars, similarity
from cusa_jax.losses.term import Compared
from cusa_jax.models.heads import ProjectionHead, ResidualHead
from cusa_jax.objective import objective
from cusa_jax.types import Embeddings
from cusa_jax.weights import reference

GOLDEN = golden.numbers("losses")
ARRAYS = golden.arrays("losses")
CASES = {(case["case"], case["dtype"]): case for case in GOLDEN["heads"]}
LOSS_TOLERANCE = {"f32": (1e-6, 1e-7), "f64": (1e-12, 1e-15)}
GRADIENT_TOLERANCE = {"f32": 1e-5, "f64": 1e-10}
SIDES = ("image", "text")


def head_params(dtype):
    """{'cross_image': …, …} for ProjectionHead."""
    out = {}
    for module in golden.HEADS:
        ln, linear = f"head/param/ln_{module}_projection", f"head/param/{module}_projection"
        out[module] = {
            "ln": {"scale": ARRAYS[f"{ln}.weight"], "bias": ARRAYS[f"{ln}.bias"]},
            "linear": {"kernel": ARRAYS[f"{linear}.weight"].T, "bias": ARRAYS[f"{linear}.bias"]},
        }
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), out)


def heads_of(loss):
    """Kinds of heads that a configuration has (as `experiment.student_options` decides)."""
    kinds = {"cross": loss.contrastive.weight > 0 or loss.csa.weight > 0, "uni": loss.usa.weight > 0}
    return [kind for kind, on in kinds.items() if on]


def embed(params, features, kinds):
    return {
        f"{kind}_{side}": ProjectionHead().apply({"params": params[f"{kind}_{side}"]}, features[side])
        if kind in kinds
        else features[side]
        for kind in ("cross", "uni")
        for side in SIDES
    }


@functools.cache
def run(case, dtype):
    loss = reference.loss_config(GOLDEN["configs"][case]["loss_config"])
    with golden.precision(dtype):
        to = functools.partial(jnp.asarray, dtype=golden.DTYPES[dtype])
        specs = scalars.specifications(loss)
        taus = scalars.clamp({name: to(spec.init) for name, spec in specs.items()}, specs)
        features = {side: to(ARRAYS[f"A/cross_{side}"]) for side in SIDES}
        labels = similarity.teacher(*(to(ARRAYS[f"A/soft_{side}"]) for side in SIDES))

        def total(params, features, taus):
            embeddings = embed(params, features, heads_of(loss))
            compared = Compared(similarity.student(Embeddings(**embeddings)), labels, ARRAYS["A/idx"])
            value, terms = objective(compared, taus, loss)
            return value, (
                embeddings,
                [terms[name] * loss[name].weight for name in ("csa", "usa", "contrastive")],
            )

        grad = golden.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
        (_, aux), gradients = grad(head_params(golden.DTYPES[dtype]), features, taus)
        return jax.device_get((*aux, *gradients))


@pytest.mark.parametrize("key", CASES, ids="-".join)
def test_embeddings_and_losses_equal_the_reference(key):
    _, dtype = key
    embeddings, terms, _, _, taus = run(*key)
    for side in SIDES:
        for kind, flag in (("cross", 1), ("uni", 0)):
            theirs = ARRAYS[f"{CASES[key]['key']}/encode_{side}/cross{flag}"]
            relative, floor = {"f32": (1e-5, 1e-6), "f64": (1e-13, 1e-15)}[dtype]
            golden.assert_close(
                f"heads {dtype}: embeddings", embeddings[f"{kind}_{side}"], theirs, relative, floor
            )
    golden.assert_close(f"heads {dtype}: losses", terms, CASES[key]["losses"], *LOSS_TOLERANCE[dtype])
    for name, tau in CASES[key]["taus"].items():
        if tau["grad"] is not None:
            ours = next(ours for ours, theirs in reference.TEMPERATURE_NAMES.items() if theirs == name)
            floor = {"f32": 1e-7, "f64": 1e-15}[dtype] / tau["used"] ** 2
            golden.assert_close(
                f"heads {dtype}: tau gradients", taus[ours], tau["grad"], GRADIENT_TOLERANCE[dtype], floor
            )


@pytest.mark.parametrize("key", CASES, ids="-".join)
def test_gradients_equal_the_reference(key):
    case, dtype = key
    _, _, params, features, _ = run(*key)
    for module in golden.HEADS:
        check_gradient(case, dtype, f"ln_{module}_projection.weight", params[module]["ln"]["scale"])
        check_gradient(case, dtype, f"ln_{module}_projection.bias", params[module]["ln"]["bias"])
        check_gradient(case, dtype, f"{module}_projection.weight", params[module]["linear"]["kernel"].T)
        check_gradient(case, dtype, f"{module}_projection.bias", params[module]["linear"]["bias"])
    for side in SIDES:
        check_gradient(case, dtype, f"{side}_features", features[side])


def check_gradient(case, dtype, name, gradient):
    stored = {d: ARRAYS.get(f"head/{case}/{d}/grad/{name}") for d in golden.DTYPES}
    if stored[dtype] is None:
        assert not gradient.any()
        return
    floor = golden.rounding(**stored, dtype=dtype)
    golden.assert_close(
        f"heads {dtype}: gradients", gradient, stored[dtype], GRADIENT_TOLERANCE[dtype], floor
    )


def test_fresh_heads_follow_the_references_initialisation():
    """N(0, 0.02²) weights, torch's default bias U(±1/√E), identity layer norm."""
    params = jax.jit(ProjectionHead().init)(jax.random.key(0), jnp.zeros((1, 256)))["params"]
    kernel, bias = params["linear"]["kernel"], params["linear"]["bias"]
    assert kernel.dtype == bias.dtype == jnp.float32
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.02)
    assert abs(kernel.mean()) < 3e-4
    assert 0.95 / 16 < np.abs(bias).max() <= 1 / 16
    np.testing.assert_allclose(bias.std(), 1 / 16 / np.sqrt(3), rtol=0.1)
    assert (params["ln"]["scale"] == 1).all()
    assert (params["ln"]["bias"] == 0).all()


def test_heads_work_in_float32_behind_a_bfloat16_tower():
    head = ProjectionHead()
    params = jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((1, 8)))
    features = jax.ShapeDtypeStruct((2, 8), jnp.bfloat16)
    assert jax.eval_shape(head.apply, params, features).dtype == jnp.float32


def test_fresh_residual_heads_are_the_identity_and_learn():
    features = jax.random.normal(jax.random.key(1), (3, 8))
    head = ResidualHead()
    params = head.init(jax.random.key(0), features)
    np.testing.assert_array_equal(head.apply(params, features), features)
    gradient = jax.grad(lambda p: (head.apply(p, features) ** 2).sum())(params)
    assert all(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(gradient))

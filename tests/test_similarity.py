"""Global and local negatives, on one device and several, against the reference's own distributed runs.

The reference ran a whole batch of 16 rows in one process ('global'), and split over W processes with its all-gather
('gather1', one loss over all rows) and without ('gather0', the mean of losses that see only their own rows).
"""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cusa_jax import scalars, sharding, similarity
from cusa_jax.models.heads import ProjectionHead
from cusa_jax.objective import of_embeddings
from cusa_jax.types import Embeddings
from cusa_jax.weights import reference

GOLDEN = golden.numbers("allgather")
ARRAYS = golden.arrays("allgather")
LOSS_TOLERANCE = {"f32": (1e-6, 1e-7), "f64": (1e-12, 1e-15)}
GRADIENT_TOLERANCE = {"f32": 1e-5, "f64": 1e-10}


def embed(tensors, image, text):
    """The reference's stub model: a linear layer for each tower, and the heads. Raw features without uni heads."""

    def tower(side, x):
        name = {"image": "visual", "text": "textual"}[side]
        features = x @ tensors[f"clip_model.{name}.weight"].T + tensors[f"clip_model.{name}.bias"]
        return [head(f"{kind}_{side}_projection", features) for kind in ("cross", "uni")]

    def head(name, features):
        if f"{name}.weight" not in tensors:
            return features
        norm = {"scale": tensors[f"ln_{name}.weight"], "bias": tensors[f"ln_{name}.bias"]}
        linear = {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}
        return ProjectionHead().apply({"params": {"ln": norm, "linear": linear}}, features)

    (cross_image, uni_image), (cross_text, uni_text) = tower("image", image), tower("text", text)
    return Embeddings(cross_image, cross_text, uni_image, uni_text)


@functools.cache
def run(config: str, dtype: str, groups: int, devices: int):
    """Weighted losses in the recorded order, gradients by tensors, gradients by temperatures; batch over devices."""
    loss = reference.loss_config(GOLDEN["configs"][config])
    with golden.precision(dtype):
        specs = scalars.specifications(loss)
        taus = {name: jnp.asarray(spec.init, golden.DTYPES[dtype]) for name, spec in specs.items()}
        names = [name.rpartition("/")[2] for name in ARRAYS if name.startswith(f"{config}/f64/global_grad/")]
        tensors = {name: ARRAYS[f"param/{name}"].astype(golden.DTYPES[dtype]) for name in names}

        def total(tensors, taus, batch):
            embeddings = embed(tensors, batch["image"], batch["text"])
            teachers = batch["soft_image"], batch["soft_text"]
            value, terms = of_embeddings(embeddings, teachers, batch["idx"], taus, loss, groups=groups)
            return value, [terms[name] * loss[name].weight for name in ("csa", "usa", "contrastive")]

        mesh = jax.make_mesh(
            (devices, 1), ("data", "fsdp"), devices=jax.devices()[:devices], axis_types=(AxisType.Auto,) * 2
        )
        batch = {name: ARRAYS[f"in/{name}"] for name in ("image", "text", "soft_image", "soft_text", "idx")}
        batch = {n: x.astype(golden.DTYPES[dtype]) if x.dtype == np.float32 else x for n, x in batch.items()}
        replicated = NamedSharding(mesh, P())
        step = golden.jit(
            jax.value_and_grad(total, argnums=(0, 1), has_aux=True),
            in_shardings=(replicated, replicated, sharding.batch_sharding(mesh)),
        )
        (_, terms), gradients = step(tensors, taus, batch)
        return jax.device_get((terms, *gradients))


def check(family, dtype, ours, losses, tau_gradients, tensor_gradient):
    """tensor_gradient: (dtype, name) -> what the reference recorded."""
    terms, tensors, taus = ours
    golden.assert_close(f"{family}: losses", terms, losses, *LOSS_TOLERANCE[dtype])
    for name, gradient in tensors.items():
        floor = 1e-15
        if dtype == "f32":
            floor = golden.rounding(tensor_gradient("f32", name), tensor_gradient("f64", name), dtype)
        theirs = tensor_gradient(dtype, name)
        golden.assert_close(f"{family}: gradients", gradient, theirs, GRADIENT_TOLERANCE[dtype], floor)
    for theirs, gradient in tau_gradients.items():
        ours = next(ours for ours, name in reference.TEMPERATURE_NAMES.items() if name == theirs)
        golden.assert_close(f"{family}: tau gradients", taus[ours], gradient, GRADIENT_TOLERANCE[dtype])


@pytest.mark.parametrize(("dtype", "devices"), [("f64", 1), ("f64", 2), ("f64", 4), ("f32", 4)])
@pytest.mark.parametrize("config", GOLDEN["configs"])
def test_global_negatives_give_the_gradient_of_the_whole_batch(config, dtype, devices):
    recorded = GOLDEN["runs"][f"{config}/{dtype}/global"]
    check(
        f"global negatives {dtype}",
        dtype,
        run(config, dtype, 1, devices),
        recorded["losses"],
        recorded["tau_grads"],
        lambda dtype, name: ARRAYS[f"{config}/{dtype}/global_grad/{name}"],
    )


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("config", GOLDEN["configs"])
def test_the_references_all_gather_divides_gradients_by_the_number_of_processes(config, processes):
    """Its backward pass keeps the local slice, and DDP averages: 1/W of the true gradient, but not for taus."""
    recorded = GOLDEN["runs"][f"{config}/f64/w{processes}/gather1"]
    check(
        "all-gather f64",
        "f64",
        run(config, "f64", 1, 4),
        np.mean(recorded["per_rank_losses"], axis=0),
        recorded["tau_grads_ddp"],
        lambda _, name: processes * ARRAYS[f"{config}/f64/w{processes}/gather1/ddp_grad/{name}"],
    )


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("config", GOLDEN["configs"])
def test_local_negatives_equal_the_references_separate_processes(config, processes, devices):
    recorded = GOLDEN["runs"][f"{config}/f64/w{processes}/gather0"]
    check(
        "local negatives f64",
        "f64",
        run(config, "f64", processes, devices),
        np.mean(recorded["per_rank_losses"], axis=0),
        recorded["tau_grads_ddp"],
        lambda _, name: ARRAYS[f"{config}/f64/w{processes}/gather0/ddp_grad/{name}"],
    )


def test_centring_takes_off_what_all_samples_share():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(6, 4)) * rng.uniform(1, 9, (6, 1)) + 20).astype(np.float32)
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    own = directions - directions.mean(0)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    found = similarity.teacher(similarity.centred(features), similarity.centred(features))
    np.testing.assert_allclose(found.image, own @ own.T, atol=1e-5)
    # Before, all were alike.
    assert similarity.teacher(features, features).image.min() > 0.75
    assert found.image.min() < -0.2

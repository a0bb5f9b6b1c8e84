"""Tiled losses against the dense ones, on one device and on eight, and that they never hold a B×B matrix.

Against the recorded reference: test_losses.py.
"""

import functools

import golden
import jax
import numpy as np
import pytest

from cusa_jax import objective, scalars, sharding
from cusa_jax.config import default_config, validate
from cusa_jax.errors import InputError
from cusa_jax.losses.terms import TERMS
from cusa_jax.types import Embeddings

ROWS = 72  # no tile below divides it, nor the 9 rows of one of eight devices


def settings(tile, targets="each", divergence="kl", reduction="mean", shared=False):
    loss = default_config().loss
    loss.tile = tile
    loss.csa.targets = targets
    for term in (loss.csa, loss.usa):
        term.divergence, term.reduction = divergence, reduction
        for tau in (term.tau, term.teacher_tau):
            tau.shared = shared
            tau.image.init, tau.text.init = 0.3, 0.6
    loss.usa.tau.from_csa = shared
    return loss


def alone(term, tile):
    """The only term with a weight."""
    loss = settings(tile)
    for name in TERMS:
        loss[name].weight = float(name == term)
    return loss


def random_inputs(rows=ROWS, dtype=np.float64):
    rng = np.random.default_rng(7)
    embeddings = Embeddings(*(rng.normal(size=(rows, 16)).astype(dtype) for _ in range(4)))
    # A common direction, as real features have: similarities away from 0.
    teachers = tuple((rng.normal(size=(rows, width)) + 0.5).astype(dtype) for width in (40, 24))
    return embeddings, teachers, rng.integers(0, rows // 3, rows)


def evaluate(inputs, loss, mesh=None):
    """Total, terms, and gradients by embeddings and temperatures."""
    embeddings, teachers, ids = inputs
    specs = scalars.specifications(loss)
    taus = scalars.clamp({name: spec.init for name, spec in specs.items()}, specs)
    total = functools.partial(objective.of_embeddings, loss=loss, mesh=mesh)

    def run(embeddings, taus, teachers, ids):
        return total(embeddings, teachers, ids, taus)

    if mesh is not None:
        rows = sharding.batch_sharding(mesh)
        embeddings, teachers, ids = jax.device_put((embeddings, teachers, ids), rows)
    step = golden.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    return jax.device_get(step(embeddings, taus, teachers, ids))


MODES = {
    "each, kl": {},
    "add, cross-entropy mean": {"targets": "add", "divergence": "cross_entropy"},
    "dot, cross-entropy sum, shared": {
        "targets": "dot", "divergence": "cross_entropy", "reduction": "sum", "shared": True
    },
    "dot, kl": {"targets": "dot"},
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_tiled_equals_dense_on_one_device_and_on_eight(mode):
    with jax.enable_x64(True):
        inputs = random_inputs()
        expected = evaluate(inputs, settings(tile=0, **MODES[mode]))
        for tile, mesh in ((10, None), (4, sharding.make_mesh(fsdp=2))):
            ours = evaluate(inputs, settings(tile=tile, **MODES[mode]), mesh)
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-13), ours, expected)


def test_without_teachers_and_ids_the_diagonal_alone_is_positive():
    with jax.enable_x64(True):
        embeddings, _, _ = random_inputs()
        inputs = embeddings, None, None
        ours, expected = (evaluate(inputs, alone("contrastive", tile)) for tile in (100, 0))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-13), ours, expected)


def test_peak_memory_grows_with_the_batch_and_not_with_its_square():
    def temporary_bytes(rows, tile):
        inputs, loss = random_inputs(rows, np.float32), settings(tile)
        taus = scalars.init(scalars.specifications(loss))

        def total(embeddings, teachers, ids):
            return objective.of_embeddings(embeddings, teachers, ids, taus, loss)[0]

        return jax.jit(jax.grad(total)).lower(*inputs).compile().memory_analysis().temp_size_in_bytes

    small, large = temporary_bytes(1024, tile=64), temporary_bytes(2048, tile=64)
    assert large < 2.2 * small
    assert large < 2048**2 * 4 / 2  # not even half a float32 matrix
    assert temporary_bytes(2048, tile=0) > 2048**2 * 4


def test_a_broken_embedding_reaches_the_loss_as_nan():
    embeddings, teachers, ids = random_inputs(dtype=np.float32)
    embeddings.cross_image[3] = 0
    _, terms = objective.of_embeddings(
        embeddings, teachers, ids, scalars.init(scalars.specifications(settings(10))), settings(10)
    )
    assert np.isnan(terms["contrastive"])
    assert np.isnan(terms["csa"])
    assert np.isfinite(terms["usa"])


@pytest.mark.parametrize("wrong", [{"targets": "sum"}, {"divergence": "js"}, {"reduction": "max"}])
def test_unknown_modes_are_refused(wrong):
    embeddings, teachers, ids = random_inputs(dtype=np.float32)
    loss = settings(10, **wrong)
    values = scalars.init(scalars.specifications(loss))
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=f"{name}='{value}' is none of"):
        objective.of_embeddings(embeddings, teachers, ids, values, loss)


@pytest.mark.parametrize(
    ("tile", "negatives", "message"),
    [(-1, "global", "tile=-1 must be at least 0"), (64, "local", "tile=64 needs loss.negatives='global'")],
)
def test_tiles_that_cannot_be_are_refused(tile, negatives, message):
    config = default_config()
    config.data.path, config.teacher.image, config.teacher.text = "data", "image", "text"
    config.loss.tile, config.loss.negatives = tile, negatives
    with pytest.raises(InputError, match=message):
        validate(config)

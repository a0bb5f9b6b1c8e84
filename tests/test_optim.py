"""The learning-rate schedule and the parameter groups against the reference's."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from cusa_jax import optim
from cusa_jax.config import default_config
from cusa_jax.losses.term import Scalar

SCHEDULES = golden.numbers("lr")


@pytest.mark.parametrize("name", SCHEDULES)
def test_cosine_equals_the_reference_at_every_epoch(name):
    golden_schedule = SCHEDULES[name]
    settings = golden_schedule["schedular"]
    rates = [
        optim.cosine(
            epoch,
            peak=golden_schedule["base_lr"],
            low=settings["min_lr"],
            epochs=settings["epochs"],
            warmup_epochs=settings["warmup_epochs"],
            warmup_lr=settings["warmup_lr"],
            cycle_mul=settings.get("lr_cycle_mul", 1.0),
            # timm's default: one cycle, and the floor afterwards
            cycle_limit=settings.get("lr_cycle_limit", 1),
            cycle_decay=settings["decay_rate"],
        )
        for epoch in range(len(golden_schedule["lr_at_epoch"]))
    ]
    golden.assert_close("learning rates", rates, golden_schedule["lr_at_epoch"], 1e-14)


def settings(epochs, **changed) -> ConfigDict:
    return ConfigDict({"epochs": epochs, "min_lr": 1e-6, "warmup_epochs": 0.0, "warmup_lr": 1e-6, "every": "epoch",
                       **changed})  # fmt: skip


def test_learning_rates_hold_inside_an_epoch():
    rates = optim.learning_rates(default_config().optim, settings(40), steps_per_epoch=3)
    assert rates.shape == (120,)
    expected = np.repeat(SCHEDULES["flickr_shipped"]["lr_at_epoch"][:40], 3)
    np.testing.assert_allclose(rates, expected, rtol=1e-14)


def test_learning_rates_move_every_step_when_asked():
    schedule = settings(4, every="step", warmup_epochs=1.0)
    rates = optim.learning_rates(default_config().optim, schedule, steps_per_epoch=5)
    np.testing.assert_allclose(rates[:5], np.linspace(1e-6, 1e-5, 6)[:5], rtol=1e-12)
    np.testing.assert_allclose(rates[5], 1e-5, rtol=1e-12)
    assert (np.diff(rates[5:]) < 0).all()


@pytest.mark.parametrize("run", golden.numbers("train")["runs"])
def test_weight_decay_groups_equal_the_reference_by_name(run):
    _, params = golden.tiny_model("f32")
    marks = jax.tree.map(lambda p, d: np.full(p.shape, d), params, optim.decays(params))
    decays = {name: mark.all() for name, mark in golden.reference_tensors(marks).items()}
    taus = {"tau", "cross_tau", "uni_tau_image", "uni_tau_text"}
    decays |= dict.fromkeys(taus, optim.decays(jnp.asarray(0.45)))

    groups = {
        group["weight_decay"] > 0: set(group["params"])
        for group in golden.numbers("train")["runs"][run]["groups"]
    }
    assert {name for name, decay in decays.items() if decay} == groups[True]
    assert {name for name, decay in decays.items() if not decay} == groups[False]


def update(gradients, params, specs, **changed):
    config = default_config().optim
    config.update(lr=0.1, weight_decay=0.5, **changed)
    optimizer = optim.optimizer(config, np.array([0.1, 0.0]), specs)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return updates


SPECS = {name: Scalar(0.5, 0.1, 1.0, trainable) for name, trainable in (("moves", True), ("frozen", False))}
PARAMS = {"model": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)},
          "taus": {"moves": jnp.asarray(0.5), "frozen": jnp.asarray(0.5)}}  # fmt: skip


def test_one_step_by_hand():
    """First Adam step: the sign of the gradient; decay pulls matrices and temperatures, not vectors."""
    updates = update(jax.tree.map(jnp.ones_like, PARAMS), PARAMS, SPECS)
    np.testing.assert_allclose(updates["model"]["kernel"], -0.1 * (1 + 0.5 * 2), rtol=1e-5)
    np.testing.assert_allclose(updates["model"]["bias"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["taus"]["moves"], -0.1 * (1 + 0.5 * 0.5), rtol=1e-5)
    assert updates["taus"]["frozen"] == 0


def test_gradients_are_clipped_by_their_global_norm_when_asked():
    gradients = jax.tree.map(
        lambda p: 1e-8 * jnp.ones_like(p), PARAMS
    )  # of the size of eps, where scale matters
    updates = update(gradients, PARAMS, SPECS, clip_norm=1e-8)
    trained = 4 + 2 + 1
    clipped = 1e-8 / np.sqrt(trained)
    np.testing.assert_allclose(updates["model"]["bias"], -0.1 * clipped / (clipped + 1e-8), rtol=1e-4)

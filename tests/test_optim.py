"""The learning-rate schedule and the parameter groups against the reference's."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from cusa_jax import optim
from cusa_jax.config import default_config
from cusa_jax.errors import InputError
from cusa_jax.scalars import Scalar

SCHEDULES = golden.numbers("lr")


@pytest.mark.parametrize("name", SCHEDULES)
def test_cosine_equals_the_reference_at_every_epoch(name):
    golden_schedule = SCHEDULES[name]
    settings = golden_schedule["schedular"]
    # The first cosine, which is all that the reference's configurations reach.
    cycle = min(settings["epochs"] + settings["warmup_epochs"], len(golden_schedule["lr_at_epoch"]))
    rates = [
        optim.cosine(
            epoch,
            peak=golden_schedule["base_lr"],
            low=settings["min_lr"],
            epochs=settings["epochs"],
            warmup_epochs=settings["warmup_epochs"],
            warmup_lr=settings["warmup_lr"],
        )
        for epoch in range(cycle)
    ]
    golden.assert_close("learning rates", rates, golden_schedule["lr_at_epoch"][:cycle], 1e-14)


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


SCALARS = {name: Scalar(0.5, 0.1, 1.0, trainable) for name, trainable in (("moves", True), ("frozen", False))}
PARAMS = {"model": {"image": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)},
                    "text": {"kernel": jnp.full((2, 3), 2.0)}},
          "scalars": {"moves": jnp.asarray(0.5), "frozen": jnp.asarray(0.5)}}  # fmt: skip


@pytest.mark.parametrize("run", golden.numbers("train")["runs"])
def test_weight_decay_groups_equal_the_reference_by_name(run):
    _, params = golden.tiny_model("f32")
    names = {
        "tau": "tau",
        "cross_tau": "cross_tau",
        "uni_tau_image": "uni_tau_image",
        "uni_tau_text": "uni_tau_text",
    }
    shapes = {"model": params, "scalars": {name: jnp.asarray(0.45) for name in names}}
    treated = optim.treatments(shapes, (), dict.fromkeys(names, Scalar(0.5, 0.1, 1.0, True)), 0.05)
    marks = {path: np.full(leaf.shape, treated[path].decay) for path, leaf in flatten_dict(shapes).items()}
    decays = golden.reference_tensors(unflatten_dict(marks)["model"])
    decays |= {name: marks["scalars", name] for name in names}

    groups = {
        group["weight_decay"] > 0: set(group["params"])
        for group in golden.numbers("train")["runs"][run]["groups"]
    }
    assert {name for name, decay in decays.items() if (decay == 0.05).all()} == groups[True]
    assert {name for name, decay in decays.items() if (decay == 0).all()} == groups[False]


def update(gradients, rules="", freeze="", steps=1, **changed):
    """The update of the last of `steps` equal steps, and the state of the optimiser behind it."""
    config = default_config().optim
    config.update({"lr": 0.1, "weight_decay": 0.5, **changed})
    treated = optim.treatments(PARAMS, optim.read_rules(rules, freeze), SCALARS, config.weight_decay)
    optimizer = optim.optimizer(config, np.array([0.1] * steps), treated)
    state = optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, PARAMS)
    return updates, state


ONES = jax.tree.map(jnp.ones_like, PARAMS)


def test_one_step_by_hand():
    """First Adam step: the sign of the gradient; decay pulls matrices and scalars, not vectors."""
    updates, _ = update(ONES)
    np.testing.assert_allclose(updates["model"]["image"]["kernel"], -0.1 * (1 + 0.5 * 2), rtol=1e-6)
    np.testing.assert_allclose(updates["model"]["image"]["bias"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["scalars"]["moves"], -0.1 * (1 + 0.5 * 0.5), rtol=1e-6)
    assert updates["scalars"]["frozen"] == 0


def test_bias_corrections_are_exact():
    """1 - 0.999 in float32 is off by 1e-5, which would show in the first step of a constant gradient."""
    gradients = jax.tree.map(lambda p: jnp.full_like(p, 1e-3), PARAMS)
    updates, _ = update(gradients, eps=0.0, weight_decay=0.0)
    np.testing.assert_allclose(updates["model"]["image"]["bias"], np.float32(-0.1), rtol=3e-7)


def test_adamw_is_that_of_optax_over_many_steps():
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), PARAMS)
    ours, _ = update(gradients, steps=50)
    theirs = optax.adamw(0.1, weight_decay=0.5, mask=jax.tree.map(lambda p: p.ndim != 1, PARAMS))
    state = theirs.init(PARAMS)
    for _ in range(50):
        expected, state = theirs.update(gradients, state, PARAMS)
    expected["scalars"]["frozen"] *= 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), ours, expected)


def test_gradients_are_clipped_by_their_global_norm_when_asked():
    # Of the size of eps, where scale matters.
    gradients = jax.tree.map(lambda p: 1e-8 * jnp.ones_like(p), PARAMS)
    gradients["scalars"]["frozen"] = jnp.zeros(())
    updates, _ = update(gradients, clip_norm=1e-8)
    trained = 4 + 2 + 6 + 1
    clipped = 1e-8 / np.sqrt(trained)
    np.testing.assert_allclose(
        updates["model"]["image"]["bias"], -0.1 * clipped / (clipped + 1e-8), rtol=1e-4
    )


def test_the_first_rule_that_matches_decides():
    updates, _ = update(ONES, rules="image/bias lr=0.5; image/.* lr=0.1 decay=0; .*/moves decay=0.2")
    np.testing.assert_allclose(updates["model"]["image"]["bias"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(updates["model"]["image"]["kernel"], -0.01, rtol=1e-6)
    np.testing.assert_allclose(updates["model"]["text"]["kernel"], -0.1 * (1 + 0.5 * 2), rtol=1e-6)
    np.testing.assert_allclose(updates["scalars"]["moves"], -0.1 * (1 + 0.2 * 0.5), rtol=1e-6)


@pytest.mark.parametrize("how", [{"freeze": "image"}, {"rules": "image/.* train=false"}])
def test_what_is_frozen_stays_and_has_no_moments(how):
    updates, state = update(ONES, **how)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates["model"]["image"]))
    assert updates["model"]["text"]["kernel"].all()
    assert state[-1].mean.keys() == {"model", "scalars"}
    assert state[-1].mean["model"].keys() == {"text"}


def test_no_gradient_is_computed_for_what_is_frozen():
    treated = optim.treatments(PARAMS, optim.read_rules("", "image"), SCALARS, 0.0)

    def loss(params):
        params = optim.stop_frozen(params, treated, jnp.asarray(0))["model"]
        return (jnp.tanh(params["image"]["kernel"]) @ params["text"]["kernel"]).sum()

    gradients = jax.grad(loss)(PARAMS)["model"]
    assert not gradients["image"]["kernel"].any()
    assert gradients["text"]["kernel"].all()
    program = str(jax.make_jaxpr(jax.grad(loss))(PARAMS))
    assert program.count("tanh") == 1
    assert program.count("dot_general") == 2, "the product and its gradient by the text tower alone"


@pytest.mark.parametrize(
    ("rules", "freeze", "message"),
    [
        ("imgae/.* lr=0.1", "", r"no parameter's path matches 'imgae/\.\*'.*did you mean 'image'"),
        ("", "imgae", r"no parameter's path matches 'imgae"),
        ("image/.* rate=0.1", "", r"'rate=0.1' is none of lr=NUMBER"),
        ("image/.* lr=-1", "", r"'lr=-1' is none of"),
        ("image/.* lr=nan", "", r"'lr=nan' is none of"),
        ("image/( lr=1", "", r"'image/\(' is no regular expression"),
        ("", "image,text", r"leave no parameter of the model to train"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rules, freeze, message):
    with pytest.raises(InputError, match=message):
        update(ONES, rules, freeze)

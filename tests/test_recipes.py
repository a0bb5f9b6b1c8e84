"""Recipes of fine-tuning: layer-wise decay, later starts, averages, LoRA, early stop."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import average, layer_decay, optim
from cusa_jax.config import default_config
from cusa_jax.errors import InputError
from cusa_jax.scalars import Scalar
from cusa_jax.step import Recipe, outcome
from cusa_jax.train import _gave_up
from cusa_jax.types import TrainState

PARAMS = {"model": {"image": {"kernel": jnp.full((2, 2), 2.0)}, "text": {"kernel": jnp.full((2, 3), 2.0)}},
          "scalars": {"tau": jnp.asarray(0.5)}}  # fmt: skip


def treated(rules: str, steps_per_epoch: int = 1):
    scalars = {"tau": Scalar(0.5, 0.1, 1.0, True)}
    return optim.treatments(PARAMS, optim.read_rules(rules), scalars, 0.0, steps_per_epoch=steps_per_epoch)


def steps(rules: str, count: int, steps_per_epoch: int = 1, **settings):
    """The parameters after each step under a gradient of ones, and the last state."""
    config = default_config().optim
    config.update(settings)
    optimizer = optim.optimizer(config, np.full(20, 0.1), treatments := treated(rules, steps_per_epoch))
    params, state, seen = PARAMS, optimizer.init(PARAMS), []
    for step in range(count):
        masked = jax.grad(
            lambda params, step=step: sum(
                leaf.sum() for leaf in jax.tree.leaves(optim.stop_frozen(params, treatments, step))
            )
        )(params)
        updates, state = optimizer.update(masked, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        seen.append(params)
    return seen, state


def test_layer_decay_counts_from_the_top_block_of_each_tower():
    block = "transformer/block_{}/attn/in_proj/kernel"
    blocks = [f"image/{block.format(n)}" for n in range(3)]
    names = ["image/patch_embedding/kernel", *blocks, "image/ln_post/scale",
             f"text/{block.format(0)}", f"lora/image/{block.format(0)}/a",
             "cross_image/kernel", "scalars/tau"]  # fmt: skip
    factors = layer_decay.factors(names, 0.5)
    assert list(factors.values()) == [0.0625, 0.125, 0.25, 0.5, 1, 0.5, 0.125, 1, 1]


def test_layer_decay_of_a_model_without_blocks_is_refused():
    with pytest.raises(InputError, match="no numbered blocks"):
        layer_decay.factors(["image/layer1_0/conv1/kernel"], 0.5)


def test_a_part_that_starts_after_two_epochs_then_trains_as_from_the_beginning():
    late, _ = steps("image/.* after=2", count=7, steps_per_epoch=2)
    early, _ = steps("", count=7)
    image = [np.asarray(params["model"]["image"]["kernel"]) for params in late]
    for still in image[:4]:
        np.testing.assert_array_equal(still, PARAMS["model"]["image"]["kernel"])
    for n, moved in enumerate(image[4:]):
        np.testing.assert_array_equal(moved, early[n]["model"]["image"]["kernel"])
    np.testing.assert_array_equal(late[-1]["model"]["text"]["kernel"], early[-1]["model"]["text"]["kernel"])


def test_the_average_follows_the_parameters_by_its_definition():
    seen, state = steps("text/.* train=false", count=4, ema=0.9)
    expected = np.asarray(PARAMS["model"]["image"]["kernel"])
    for params in seen:
        expected = 0.9 * expected + 0.1 * np.asarray(params["model"]["image"]["kernel"])
    averaged = average.averaged(seen[-1], state)
    np.testing.assert_allclose(averaged["model"]["image"]["kernel"], expected, rtol=1e-6)
    np.testing.assert_array_equal(averaged["model"]["text"]["kernel"], PARAMS["model"]["text"]["kernel"])


def test_what_a_lora_training_leaves_is_an_ordinary_model():
    thin = {"image": {"kernel": {"a": jnp.asarray([[1.0], [2.0]]), "b": jnp.asarray([[3.0, 4.0]])}}}
    recipe = Recipe(None, {}, {}, None, None, lora_rank=1, lora_scale=0.5)
    state = TrainState(jnp.asarray(3), {**PARAMS, "lora": thin}, {}, ())
    result = outcome(state, recipe)
    assert set(result.params) == {"model", "scalars"}
    np.testing.assert_allclose(result.params["model"]["image"]["kernel"], [[3.5, 4.0], [5.0, 6.0]])


def test_patience_ends_a_run_only_at_the_end_of_an_epoch():
    schedule = types.SimpleNamespace(patience=2)
    run = types.SimpleNamespace(config=types.SimpleNamespace(schedule=schedule), steps_per_epoch=10)
    stops = [step for step in range(41) if _gave_up(run, step, {"step": 10})]
    assert stops == [30, 40]
    schedule.patience = 0
    assert not _gave_up(run, 100, {"step": 10})

"""The tables of scripts/bench.py at toy sizes: the steps are real ones, and their FLOPs those of the mathematics."""

import itertools
import math

import pytest

from cusa_jax.benchmark import inputs, losses, recipes, steps, synthetic
from cusa_jax.config import default_config, typed
from cusa_jax.errors import InputError
from cusa_jax.models import layers

SIZES = synthetic.TEACHERS["toy"]


def config(**changed):
    config = default_config()
    small = {"model.name": "toy", "model.sizes": "vision_layers=1,text_layers=1", "batch_size": 32}
    settings = {**small, "loss.negatives": "global", **changed}
    config.update_from_flattened_dict(settings)
    return config


def test_a_step_trains():
    step = steps.started(config(**{"optim.lr": 1e-3}), "cusa-live-text", SIZES)
    losses = [float(step()["loss"]) for _ in range(8)]
    assert losses[-1] < losses[0]


def test_flops_do_not_depend_on_what_is_computed_again():
    again = config(accumulate=2, **{"model.remat": True, "loss.tile": 16})
    flops = [steps.plan(c, steps.VARIANTS["cusa-live"], SIZES).flops() for c in (config(), again)]
    assert flops[0] == flops[1]


def test_flops_of_a_fused_kernel_are_those_of_attention(monkeypatch):
    """The kernel here counts nothing, as cuDNN's."""
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    monkeypatch.setitem(layers.ATTENTION, "cudnn", lambda query, key, value, causal: query)
    fused = config(**{"model.attention": "cudnn", "model.dtype": "bfloat16"})
    plain = config(**{"model.dtype": "bfloat16"})
    flops = [steps.plan(c, steps.VARIANTS["contrastive"], SIZES).flops() for c in (fused, plain)]
    assert flops[0] == flops[1]


def test_flops_of_the_papers_teachers():
    """12 layers of 12 D² weights for each of 49 patches and 20 tokens; a bank costs next to nothing."""
    sizes = synthetic.TEACHERS["real"]
    plans = [steps.plan(config(), steps.VARIANTS[name], sizes) for name in ("cusa-bank", "cusa-live")]
    bank, live = (plan.flops() for plan in plans)
    assert live - bank == pytest.approx(32 * (49 + 20) * 2 * 12 * 12 * 768**2, rel=0.08)


def test_rows_that_are_only_planned():
    (row,) = steps.rows(config(), ["contrastive"], SIZES, repeats=0, rate=math.nan)
    assert math.isnan(row["s"])
    assert row["TFLOP"] > 0
    assert row["MiB a device"] > 0


def test_recipes_train_and_keep_what_they_say():
    names = ["full", "image-frozen", "lora"]
    full, frozen, lora = recipes.rows(config(), names, SIZES, repeats=0)
    assert full["million trained"] > frozen["million trained"] > lora["million trained"] > 0
    assert full["MiB a device"] > frozen["MiB a device"] > 0


def test_dense_and_tiled_losses_agree():
    row = losses.row(typed(config()).loss, 64, width=8, tile=16, dense=True, repeats=1)
    assert 0 < row["max error"] < 1e-5
    assert row["time ratio"] > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss.negatives": "local", "loss.local_batch": 12}, "not a multiple of loss.local_batch=12"),
        ({"batch_size": 36}, "does not split over 8 devices"),
        ({"loss.usa.weight": 0.0}, "config.loss.usa.weight is 0"),
        (
            {"model.name": "rn50", "model.sizes": "", "accumulate": 2},
            "batch norms would see parts of a batch",
        ),
    ],
)
def test_a_step_that_is_not_the_one_meant_is_refused(changed, message):
    with pytest.raises(InputError, match=message):
        steps.plan(config(**changed), steps.VARIANTS["cusa-live"], SIZES)


def test_input_rows(tmp_path, monkeypatch):
    """A round of each part takes 6 seconds here, for two batches."""
    clock = itertools.count(0, 6)
    monkeypatch.setattr(inputs.measure.time, "perf_counter", lambda: next(clock))
    world = {"data.world.train": 40, "data.world.val": 8, "data.world.test": 8}
    without_teachers = {"loss.csa.weight": 0.0, "loss.usa.weight": 0.0}
    settings = config(batch_size=16, **{"data.path": str(tmp_path)}, **world, **without_teachers)
    rows = inputs.rows(settings, batches=2, repeats=1)
    assert [row["part"] for row in rows] == ["input alone", "step alone", "step with input"]
    assert all((row["s"], row["pairs/s"], row["× step alone"]) == (3, 16 / 3, 1) for row in rows)

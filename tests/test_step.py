"""Ten training steps of the tiny model against the reference's, and on one device against eight.

The reference ran `retrieval.train` with torch's AdamW, its schedule and its clamping on formula-made batches and
weights; recorded are losses and temperatures at every step, and statistics of every parameter at the end.
"""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import optim, scalars, sharding
from cusa_jax.config import default_config, typed
from cusa_jax.step import Recipe, make_recipe, train_step
from cusa_jax.types import Batch, Teacher, Teachers, TrainState
from cusa_jax.weights import reference

RUNS = golden.numbers("train")["runs"]
TERMS = ("csa", "usa", "contrastive")  # the order of the recorded losses
STEPS = 10
TOLERANCE = {"f32": 1e-6, "f64": 1e-12}  # relative, beside the reference's own rounding
UPDATE_TOLERANCE = {"f32": 5e-4, "f64": 1e-11}  # of the norm of a parameter's change over the run
# A key's bias adds the same to all scores of a query, so its true gradient is 0: AdamW walks it along rounding.
KEY_BIAS = "attn.in_proj_bias"


@dataclasses.dataclass
class Trained:
    """What a run leaves behind: metrics and scalars of every step, parameters by the reference's names."""

    metrics: list[dict]
    scalars: list[dict]
    final: dict[str, np.ndarray]


def teachers() -> Teachers:
    """Each batch's recorded soft features are the parameters, so that nothing is compiled in."""
    one = Teacher("recorded", lambda features, rows: features[rows], "index")
    return Teachers(image=one, text=one)


@functools.cache
def recipe(run: str, dtype: str) -> Recipe:
    settings = RUNS[run]
    config = default_config()
    config.loss = reference.loss_config(settings["loss_config"])
    config.schedule.update(
        {key: settings["schedular"][key] for key in ("epochs", "min_lr", "warmup_epochs", "warmup_lr")}
    )
    config.optim.update({key: settings["optimizer"][key] for key in ("lr", "weight_decay")})
    rates = optim.learning_rates(config.optim, config.schedule, settings["steps_per_epoch"])
    recorded = np.ravel([[epoch[0]] * settings["steps_per_epoch"] for epoch in settings[dtype]["epoch_lrs"]])
    np.testing.assert_allclose(rates[:STEPS], recorded, rtol=1e-14)
    student, _ = golden.tiny_model(dtype)
    return make_recipe(student, typed(config).loss, config.optim, rates, teachers=teachers())


def batch(step: int, rows: int = 8) -> tuple[Batch, dict[str, np.ndarray]]:
    """A recorded batch, and its teachers' features."""
    recorded = golden.train_batch(step, rows)
    index = np.arange(rows, dtype=np.int32)
    soft = {side: recorded[f"soft_{side}"] for side in ("image", "text")}
    return Batch(recorded["image"], recorded["text"], recorded["idx"], index, index, index), soft


@functools.cache
def trained(run: str, dtype: str, devices: int = 1, fsdp: int = 1, rows: int = 8) -> Trained:
    """Ten steps on a mesh of `devices`, parameters split over `fsdp` of them."""
    with golden.precision(dtype):
        mesh = sharding.make_mesh(fsdp, jax.devices()[:devices])
        rules = recipe(run, dtype)
        # Not init_state's float32 start: the reference's float64 runs start at 0.45, not at its float32 neighbour.
        values = {name: jnp.asarray(s.init, golden.DTYPES[dtype]) for name, s in rules.scalars.items()}
        params = {"model": golden.tiny_model(dtype)[1], "scalars": values}
        state = TrainState(jnp.zeros((), jnp.int32), params, {}, rules.optimizer.init(params))
        state = sharding.put_params(state, mesh)
        step = golden.jit(functools.partial(train_step, recipe=rules), donate_argnums=0)
        metrics, values = [], []
        for number in range(STEPS):
            rows_of_batch, soft = batch(number, rows)
            labels = sharding.put_params(jax.tree.map(lambda x: x.astype(golden.DTYPES[dtype]), soft), mesh)
            state, measured = step(state, labels, sharding.put_batch(rows_of_batch, mesh))
            metrics.append({name: float(value) for name, value in measured.items()})
            values.append({name: float(value) for name, value in state.params["scalars"].items()})
        return Trained(metrics, values, golden.reference_tensors(jax.device_get(state.params["model"])))


@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("run", RUNS)
def test_losses_of_every_step_equal_the_reference(run, dtype):
    weights = reference.loss_config(RUNS[run]["loss_config"])
    metrics = trained(run, dtype).metrics
    ours = [[weights[name].weight * step[f"loss_{name}"] for name in TERMS] for step in metrics]
    recorded = {d: np.asarray([step["losses"] for step in RUNS[run][d]["steps"]]) for d in golden.DTYPES}
    floor = golden.rounding(*recorded.values(), dtype)
    golden.assert_close(f"train losses {dtype}", ours, recorded[dtype], TOLERANCE[dtype], floor)
    totals = [step["loss"] for step in metrics]
    golden.assert_close(f"train losses {dtype}", totals, recorded[dtype].sum(1), TOLERANCE[dtype], 3 * floor)


@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("run", RUNS)
def test_temperatures_of_every_step_equal_the_reference(run, dtype):
    ours = trained(run, dtype)
    theirs = RUNS[run][dtype]["steps"]
    names = {our: their for our, their in reference.TEMPERATURE_NAMES.items() if our in ours.scalars[0]}
    assert set(names.values()) == set(theirs[0]["taus_after_step"])
    for our, their in names.items():
        used = [metrics[our] for metrics in ours.metrics]
        after = [values[our] for values in ours.scalars]
        for values, key in ((used, "taus_after_clamp"), (after, "taus_after_step")):
            recorded = [step[key][their] for step in theirs]
            golden.assert_close(f"train temperatures {dtype}", values, recorded, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("run", RUNS)
def test_final_parameters_equal_the_reference(run, dtype):
    final = trained(run, dtype).final
    start = golden.reference_tensors(golden.tiny_model("f32")[1])
    recorded = {name: values for name, values in RUNS[run][dtype]["final"].items() if "tau" not in name}
    assert final.keys() == recorded.keys()
    for name in (name for name in final if KEY_BIAS not in name):
        tensor = final[name].astype(np.float64)
        ours = golden.statistics(tensor, name) | {"update_l2": np.linalg.norm(tensor - start[name])}
        floor = UPDATE_TOLERANCE[dtype] * recorded[name]["update_l2"]
        for kind, value in recorded[name].items():
            golden.assert_close(f"final parameters {dtype}", ours[kind], value, 0.0, floor)


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_eight_devices_train_as_one(fsdp):
    """Whatever share of the parameters each device holds. The shipped optimiser, float32."""
    one, eight = (trained("A_cusa_shipped_optimizer", "f32", d, f) for d, f in ((1, 1), (8, fsdp)))
    for ours, theirs in zip(eight.metrics, one.metrics, strict=True):
        golden.assert_close("losses on 8 devices", ours["loss"], theirs["loss"], 1e-6)
        for name in TERMS:  # a divergence near 0 is what large terms leave when they cancel
            golden.assert_close(
                "terms on 8 devices", ours[f"loss_{name}"], theirs[f"loss_{name}"], 1e-6, 1e-7
            )
    for name in (name for name in one.final if KEY_BIAS not in name):
        golden.assert_close("parameters on 8 devices", eight.final[name], one.final[name], 0.0, 1e-5)


def test_eight_devices_train_as_one_to_the_last_digits():
    """float64, a hundred times the learning rate: every parameter but the key biases agrees to 1e-11."""
    one, eight = (trained("A_cusa_lr1e-3_wd0.05", "f64", d, f) for d, f in ((1, 1), (8, 2)))
    for name in (name for name in one.final if KEY_BIAS not in name):
        golden.assert_close("parameters on 8 devices, f64", eight.final[name], one.final[name], 0.0, 1e-11)


def test_a_temperature_outside_its_bounds_is_clamped_before_it_is_used():
    """The loss, the gradient and the update are those of the clamped value; the stored one is replaced."""
    run = "A_cusa_lr1e-3_wd0.05"
    rules = recipe(run, "f32")
    outside = {name: jnp.float32(5.0) for name in rules.scalars}
    inside = scalars.clamp(outside, rules.scalars)
    rows, soft = batch(0)

    def one_step(values):
        params = {"model": golden.tiny_model("f32")[1], "scalars": values}
        state = TrainState(jnp.zeros((), jnp.int32), params, {}, rules.optimizer.init(params))
        return golden.jit(functools.partial(train_step, recipe=rules))(state, soft, rows)

    (clamped, seen), (expected, expected_seen) = one_step(outside), one_step(inside)
    assert jax.tree.map(float, seen) == jax.tree.map(float, expected_seen)
    assert {name: float(seen[name]) for name in inside} == jax.tree.map(float, inside)
    jax.tree.map(np.testing.assert_array_equal, clamped.params, expected.params)

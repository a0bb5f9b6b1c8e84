"""The train step in variants: time, FLOPs and memory side by side, on random inputs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cusa_jax import sharding
from cusa_jax.benchmark import measure, synthetic
from cusa_jax.benchmark.measure import Row
from cusa_jax.benchmark.synthetic import Sizes, Source
from cusa_jax.config import with_argument
from cusa_jax.experiment import make_model, make_recipe
from cusa_jax.models.clip import PRESETS
from cusa_jax.models.dual_encoder import init_variables
from cusa_jax.step import init_state, train_step
from cusa_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Variant:
    """losses: of `config.LOSSES`. image, text: where the teachers' features come from."""

    losses: str
    image: Source | None = None
    text: Source | None = None


VARIANTS = {
    "contrastive": Variant("contrastive"),
    "csa-bank": Variant("csa", "bank", "bank"),
    "usa-bank": Variant("usa", "bank", "bank"),
    "cusa-bank": Variant("cusa", "bank", "bank"),
    "cusa-live": Variant("cusa", "live", "live"),
    "cusa-live-text": Variant("cusa", "bank", "live"),  # what the reference does in a step
}
BASE = "contrastive"


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled train step. start: makes state, teachers and batch, and returns a function that takes a step.

    flops: that its mathematics ask for: without what remat and micro-batches compute again.
    """

    compiled: Any
    flops: float
    start: Callable[[], Callable[[], dict[str, jax.Array]]]


def compile_step(config: Any, variant: Variant, sizes: Sizes) -> Step:
    """From shapes alone: a step too large for this machine can still be planned."""
    config = with_argument(config.copy_and_resolve_references(), f"loss={variant.losses}")
    mesh = sharding.make_mesh(config.sharding.fsdp)
    teachers = synthetic.teachers(config, variant.image, variant.text, sizes, mesh)
    model = make_model(config, PRESETS[config.model.name])
    recipe = make_recipe(config, model, teachers, np.full(1000, config.optim.lr, np.float32), mesh)
    inputs = synthetic.batch(config.batch_size, model.clip, sizes, variant.image, variant.text)

    def fresh_state() -> Any:
        return init_state(recipe, init_variables(model, jax.random.key(0)))

    state = sharding.abstract_params(jax.eval_shape(fresh_state), mesh)
    rows = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.batch_sharding(mesh)), inputs
    )
    frozen = synthetic.shapes(teachers, mesh)
    step = functools.partial(train_step, recipe=recipe)
    compiled = jax.jit(step, donate_argnums=0).lower(state, frozen, rows).compile()

    def start() -> Callable[[], dict[str, jax.Array]]:
        return _stepper(
            compiled,
            sharding.put_params(jax.jit(fresh_state)(), mesh),
            synthetic.params(teachers, mesh),
            sharding.put_batch(inputs, mesh),
        )

    plain = dataclasses.replace(
        recipe, micro_batches=1, model=model.clone(remat=False), loss=_dense(config.loss)
    )
    asked = measure.flops(functools.partial(train_step, recipe=plain), state, frozen, rows)
    return Step(compiled, asked, start)


def _stepper(compiled: Any, state: Any, frozen: Any, rows: Batch) -> Callable[[], dict[str, jax.Array]]:
    def step() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = compiled(state, frozen, rows)
        return metrics

    return step


def _dense(loss: Any) -> Any:
    loss = loss.copy_and_resolve_references()
    loss.tile = 0
    return loss


def rows(config: Any, names: Sequence[str], sizes: Sizes, repeats: int, rate: float) -> list[Row]:
    """The step in each of the variants `names`, under `config`, timed in alternating rounds.

    rate: FLOP/s of one device's matmul. repeats: 0 compiles and counts only.
    """
    steps = {name: compile_step(config, VARIANTS[name], sizes) for name in names}
    calls = {name: step.start() for name, step in steps.items()} if repeats else dict.fromkeys(steps, dict)
    times = measure.time_rounds(calls, repeats)
    base = times.get(BASE, measure.Time()).seconds
    return [
        {
            "model": config.model.name, "dtype": config.model.dtype, "batch": config.batch_size,
            "tokens": sizes.student_tokens, "step": name,
            "s": times[name].seconds, "± s": times[name].spread,
            "pairs/s": config.batch_size / times[name].seconds, f"× {BASE}": times[name].seconds / base,
            "TFLOP": step.flops / 1e12, "TFLOP/s": step.flops / times[name].seconds / 1e12,
            "of matmul rate": step.flops / times[name].seconds / (rate * jax.device_count()),
            "MiB a device": measure.peak_mebibytes(step.compiled),
        }
        for name, step in steps.items()
    ]  # fmt: skip

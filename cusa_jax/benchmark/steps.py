"""The train step in variants: time, FLOPs and memory side by side, on random inputs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from cusa_jax import sharding
from cusa_jax.benchmark import flops, measure, synthetic
from cusa_jax.benchmark.losses import with_tile
from cusa_jax.benchmark.measure import Row, Time
from cusa_jax.benchmark.synthetic import Features, Sizes
from cusa_jax.config import LOSSES, check_loss, typed, with_argument
from cusa_jax.errors import InputError
from cusa_jax.experiment import check_batch, make_recipe, student_options
from cusa_jax.host_memory import give_back_of
from cusa_jax.models import families
from cusa_jax.models.student import Student
from cusa_jax.step import Recipe, init_state, jitted, train_step
from cusa_jax.types import Batch, TrainState


@dataclasses.dataclass(frozen=True)
class Variant:
    """losses: of `config.LOSSES`. image, text: where the teachers' features come from."""

    losses: str
    image: Features | None = None
    text: Features | None = None


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
class Plan:
    """A step in shapes alone: one too large for this machine can still be compiled and counted.

    shapes: of the arguments of `train_step`, state, teachers' parameters and batch. inputs: makes the batch.
    plain_student: the same model without recomputation, and without fused kernels, whose FLOPs no count sees.
    """

    recipe: Recipe
    plain_student: Student
    shapes: tuple[Any, Any, Any]
    inputs: Callable[[], Batch]

    def compile(self) -> Any:
        return jitted(self.recipe).lower(*self.shapes).compile()

    def flops(self) -> float:
        """Those that the mathematics ask for, without what remat, tiles and micro-batches compute again."""
        plain = dataclasses.replace(
            self.recipe, micro_batches=1, student=self.plain_student, loss=with_tile(self.recipe.loss, 0)
        )
        return flops.count(functools.partial(train_step, recipe=plain), *self.shapes)

    def start(self, compiled: Any) -> Callable[[], dict[str, jax.Array]]:
        """Makes state, teachers and batch, all random, and returns a function that takes a step."""
        mesh = self.recipe.mesh
        assert mesh is not None
        placed = jax.tree.map(lambda leaf: leaf.sharding, self.shapes[:2])
        state = jax.jit(functools.partial(_fresh_state, self.recipe), out_shardings=placed[0])()
        frozen = jax.jit(functools.partial(synthetic.draw, self.shapes[1]), out_shardings=placed[1])()
        batch = jax.jit(self.inputs, out_shardings=sharding.batch_sharding(mesh))()

        def step() -> dict[str, jax.Array]:
            nonlocal state
            state, metrics = compiled(state, frozen, batch)
            return metrics

        return step


def plan(config: Any, variant: Variant, sizes: Sizes) -> Plan:
    """Raises InputError where `config` lacks a loss of the variant, or its batch does not split as it asks for."""
    config = typed(with_argument(config.copy_and_resolve_references(), f"loss={variant.losses}"))
    mesh = sharding.make_mesh(config.sharding.fsdp)
    check_loss(config)
    check_batch(config, mesh)
    # The base may be another than the contrastive loss: SGRAF's is a hinge loss.
    if off := [term for term in LOSSES[variant.losses] if term != BASE and not config.loss[term].weight]:
        raise InputError(
            f"config.loss.{off[0]}.weight is 0, and a step with it is to be measured; leave it as it is"
        )
    family, of_model = families.presets()[config.model.name][0], sizes_of(config)
    options = student_options(config)
    student = families.make(family, of_model, options)
    plain = families.make(family, of_model, dataclasses.replace(options, remat=False, attention="xla"))
    teachers, teacher_shapes = synthetic.teachers(config, variant.image, variant.text, sizes, mesh)
    recipe = make_recipe(config, student, teachers, np.full(1000, config.optim.lr), mesh)
    inputs = functools.partial(
        synthetic.batch, config.batch_size, student.inputs, sizes, variant.image, variant.text
    )
    state = sharding.abstract_params(jax.eval_shape(functools.partial(_fresh_state, recipe)), mesh)
    give_back_of(sharding.num_bytes(state))
    split = sharding.batch_sharding(mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split), jax.eval_shape(inputs)
    )
    return Plan(recipe, plain, (state, teacher_shapes, batch), inputs)


def sizes_of(config: Any) -> Any:
    """Those of the student that `config` names."""
    return families.edited(families.presets()[config.model.name][1], config.model.sizes)


def started(config: Any, name: str, sizes: Sizes) -> Callable[[], dict[str, jax.Array]]:
    """The step of one of VARIANTS, ready to be taken."""
    planned = plan(config, VARIANTS[name], sizes)
    return planned.start(planned.compile())


def compile_all(plans: Mapping[str, Plan]) -> dict[str, Any]:
    """Compiles side by side, on as many cores as there are."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(plans, pool.map(Plan.compile, plans.values()), strict=True))


def _fresh_state(recipe: Recipe) -> TrainState:
    return init_state(recipe, recipe.student.init(jax.random.key(0)))


def rows(config: Any, names: Sequence[str], sizes: Sizes, repeats: int, rate: float) -> list[Row]:
    """The step in each of the variants `names`, under `config`, timed in alternating rounds.

    rate: FLOP/s of one device's matmul. repeats: 0 compiles and counts only.
    """
    plans = {name: plan(config, VARIANTS[name], sizes) for name in names}
    compiled = compile_all(plans)
    calls = {name: planned.start(compiled[name]) for name, planned in plans.items()} if repeats else {}
    times = measure.time_rounds(calls, repeats) if repeats else {}
    base = times.get(BASE, Time()).seconds
    rows = []
    for name in names:
        time = times.get(name, Time())
        work = plans[name].flops()
        rows.append({
            "model": config.model.name, "dtype": config.model.dtype, "batch": config.batch_size,
            "tokens": sizes.student_tokens, "step": name, "s": time.seconds, "± s": time.spread,
            "pairs/s": config.batch_size / time.seconds, f"× {BASE}": time.seconds / base,
            "TFLOP": work / 1e12, "TFLOP/s": work / time.seconds / 1e12,
            "of matmul rate": work / time.seconds / (rate * jax.device_count()),
            "MiB a device": measure.peak_mebibytes(compiled[name]),
        })  # fmt: skip
    return rows

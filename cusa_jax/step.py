"""One training step: a pure function, and how it is compiled."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from cusa_jax import lora, objective, optim, scalars, similarity
from cusa_jax.accumulate import in_micro_batches
from cusa_jax.average import averaged
from cusa_jax.losses.term import Compared
from cusa_jax.models.student import Embeds, Encoded, ModelState, Side, Student, Variables
from cusa_jax.scalars import Scalar
from cusa_jax.teachers.apply import teacher_features
from cusa_jax.types import Batch, Params, Teachers, TrainState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What stays the same from step to step: everything that the compiled step is specialised to.

    scalars: of the losses. treatments: how each parameter is trained. loss: `config.loss`. groups: problems of local
    negatives per batch; 1 is global negatives. teachers: None trains on terms without soft labels.
    centre_teachers: `config.teacher.centre`. micro_batches: parts in which a batch is encoded, one after another.
    mesh: the devices its rows are split over; only tiled losses and micro-batches ask for it, and None is one device.
    seed: of dropout and the like. lora_rank, lora_scale: of `config.optim`; a rank above 0 makes params['lora'].
    """

    student: Student
    scalars: dict[str, Scalar]
    treatments: optim.Treatments
    optimizer: optax.GradientTransformation
    loss: Any
    groups: int = 1
    teachers: Teachers | None = None
    centre_teachers: bool = False
    micro_batches: int = 1
    mesh: Mesh | None = None
    seed: int = 0
    lora_rank: int = 0
    lora_scale: float = 1.0

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides in training mode: one whose parameters are all frozen is encoded as in evaluation."""
        trained = {path[1] for path, treatment in self.treatments.items() if treatment.train}
        return tuple(side for side in get_args(Side) if side in trained)


def make_recipe(
    student: Student,
    loss: Any,
    settings: Any,
    learning_rates: np.ndarray,
    steps_per_epoch: int = 1,
    **rest: Any,
) -> Recipe:
    """The recipe of a student and `config.loss` under AdamW. settings: `config.optim`. rest: further fields.

    learning_rates: float64 [steps], one for each. Under LoRA the towers are trained only as far as rules say so.
    """
    specifications = scalars.specifications(loss)
    shapes = {
        "model": jax.eval_shape(student.init, jax.random.key(0))["params"],
        optim.SCALARS: {name: jax.ShapeDtypeStruct((), np.float32) for name in specifications},
    }
    rules = optim.read_rules(settings.rules, settings.freeze)
    if rank := settings.lora_rank:
        make = functools.partial(lora.init, pattern=lora.PROJECTIONS, rank=rank, key=jax.random.key(0))
        shapes["lora"] = jax.eval_shape(lambda: make(shapes["model"]))
        rules += (optim.Rule("(image|text)/.*", train=False),)
    treatments = optim.treatments(
        shapes, rules, specifications, settings.weight_decay, settings.layer_decay, steps_per_epoch
    )
    optimizer = optim.optimizer(settings, learning_rates, treatments)
    rest |= {"lora_rank": rank, "lora_scale": settings.lora_scale}
    return Recipe(student, specifications, treatments, optimizer, loss, **rest)


def train_step(
    state: TrainState, teacher_params: Params, batch: Batch, *, recipe: Recipe
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Clamp scalars, compare student and teachers, update. Returns the new state and float32 [] metrics.

    teacher_params: {'image': …, 'text': …}, frozen; None without teachers. batch: rows over all devices.
    """
    clamped = scalars.clamp(state.params["scalars"], recipe.scalars)
    params = {**state.params, "scalars": clamped}
    teacher = frozen_features(teacher_params, batch, recipe)
    key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)

    def loss(params: Params) -> tuple[jax.Array, tuple[dict[str, jax.Array], ModelState]]:
        params = optim.stop_frozen(params, recipe.treatments, state.step)
        variables = {"params": merged(params, recipe), **state.model_state}
        encoded, variables = encode(variables, batch, key, recipe)
        total, terms, variables = compare(variables, encoded, teacher, batch, params["scalars"], key, recipe)
        return total, (terms, {name: variables[name] for name in state.model_state})

    (total, (terms, model_state)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, params)
    metrics = {
        "loss": total,
        **{f"loss_{name}": value for name, value in terms.items()},
        "gradient_norm": optax.tree.norm(gradients),
        "update_norm": optax.tree.norm(updates),
        **clamped,
    }
    if batch.replaced is not None:
        metrics["rows_replaced"] = batch.replaced.sum()
    params = optax.apply_updates(params, updates)
    return TrainState(state.step + 1, params, model_state, opt_state), metrics


def merged(params: Params, recipe: Recipe) -> Params:
    """The model's parameters, with what LoRA adds to them."""
    return (
        lora.merge(params["model"], params["lora"], recipe.lora_scale)
        if recipe.lora_rank
        else params["model"]
    )


def outcome(state: TrainState, recipe: Recipe) -> TrainState:
    """What a training is evaluated by and saved as: averages, if any, and LoRA merged."""
    params = averaged(state.params, state.opt_state)
    return dataclasses.replace(
        state, params={"model": merged(params, recipe), "scalars": params["scalars"]}, opt_state=()
    )


def encode(variables: Variables, batch: Batch, key: jax.Array, recipe: Recipe) -> tuple[Encoded, Variables]:
    """Both sides of a batch in micro-batches, each with randomness of its own; and the variables as they then are."""

    def part(rows: Batch, number: Any) -> tuple[Encoded, ModelState]:
        return recipe.student.encode(
            variables, rows.image, rows.tokens, train=recipe.sides, rngs=_rngs(key, number)
        )

    encoded, changed = in_micro_batches(part, batch, recipe.micro_batches, recipe.mesh)
    return encoded, {**variables, **changed}


def compare(
    variables: Variables,
    encoded: Encoded,
    teacher: tuple[jax.Array, jax.Array] | None,
    batch: Batch,
    values: dict[str, jax.Array],
    key: jax.Array,
    recipe: Recipe,
) -> tuple[jax.Array, dict[str, jax.Array], Variables]:
    """(weighted sum of the terms, the terms, the variables as they then are). values: of the losses' scalars."""
    ids, groups = batch.image_index, recipe.groups
    if recipe.loss.tile and groups == 1:
        embeddings = cast(Embeds, recipe.student).embeddings(encoded)
        tiled = objective.of_embeddings(embeddings, teacher, ids, values, recipe.loss, mesh=recipe.mesh)
        return *tiled, variables
    similarities, changed = recipe.student.compare(
        variables, encoded, groups=groups, train=True, rngs=_rngs(key, recipe.micro_batches)
    )
    labels = None if teacher is None else similarity.teacher(*teacher, groups=groups)
    compared = Compared(similarities, labels, similarity.group_ids(ids, groups))
    return *objective.objective(compared, values, recipe.loss), {**variables, **changed}


def jitted(recipe: Recipe, donate: bool = True) -> Any:
    """`train_step` under `recipe`, compiled when first called. donate: the state given is gone afterwards."""
    # XLA for CPUs drops optimization barriers before it fuses: `layers.gradient_in_memory` needs them.
    device = recipe.mesh.devices.flat[0] if recipe.mesh else jax.devices()[0]
    return jax.jit(
        functools.partial(train_step, recipe=recipe),
        donate_argnums=0 if donate else (),
        compiler_options={"xla_disable_hlo_passes": "cse_barrier_expander"}
        if device.platform == "cpu"
        else {},
    )


def frozen_features(
    teacher_params: Params, batch: Batch, recipe: Recipe
) -> tuple[jax.Array, jax.Array] | None:
    """The teachers' features of a batch, without gradient; None where the recipe has no teachers."""
    if recipe.teachers is None:
        return None
    teachers = recipe.teachers

    def part(rows: Batch, _number: Any) -> tuple[jax.Array, jax.Array]:
        return teacher_features(teachers, teacher_params, rows)

    features = in_micro_batches(part, batch, recipe.micro_batches, recipe.mesh)
    if recipe.centre_teachers:
        features = jax.tree.map(similarity.centred, features)
    return jax.lax.stop_gradient(features)


def init_state(recipe: Recipe, variables: Variables, values: Mapping[str, Any] | None = None) -> TrainState:
    """State before the first step. variables: the student's. values: scalars that do not start anew."""
    model_state = {name: collection for name, collection in variables.items() if name != "params"}
    start = scalars.init(recipe.scalars)
    start |= {
        name: jnp.asarray(value, start[name].dtype) for name, value in (values or {}).items() if name in start
    }
    params = {"model": variables["params"], "scalars": start}
    if recipe.lora_rank:
        key = jax.random.key(recipe.seed)
        params["lora"] = lora.init(variables["params"], lora.PROJECTIONS, recipe.lora_rank, key)
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, recipe.optimizer.init(params))


def _rngs(key: jax.Array, part: Any) -> dict[str, jax.Array]:
    return {"dropout": jax.random.fold_in(key, part)}

"""One training step and the encoding passes: pure functions, and how the step is compiled."""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cusa_jax import objective, temperatures
from cusa_jax.accumulate import in_micro_batches
from cusa_jax.data.images import normalise
from cusa_jax.models.dual_encoder import DualEncoder
from cusa_jax.teachers.apply import teacher_features
from cusa_jax.temperatures import Temperature
from cusa_jax.types import Batch, Embeddings, Params, Teachers, TrainState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What stays the same from step to step: everything that the compiled step is specialised to.

    loss: `config.loss`. groups: problems of local negatives per batch; 1 is global negatives.
    teachers: None trains on the contrastive loss alone.
    micro_batches: parts in which a batch is encoded, one after another. mesh: the devices its rows are split over;
    only tiled losses and micro-batches ask for it, and None is one device.
    """

    model: DualEncoder
    temperatures: dict[str, Temperature]
    optimizer: optax.GradientTransformation
    loss: Any
    groups: int = 1
    teachers: Teachers | None = None
    micro_batches: int = 1
    mesh: Mesh | None = None


def train_step(
    state: TrainState, teacher_params: Params, batch: Batch, *, recipe: Recipe
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Clamp temperatures, compare student and teachers, update. Returns the new state and float32 [] metrics.

    teacher_params: {'image': …, 'text': …}, frozen; None without teachers. batch: rows over all devices.
    """
    taus = temperatures.clamp(state.params["taus"], recipe.temperatures)
    params = {"model": state.params["model"], "taus": taus}
    labels = frozen_features(teacher_params, batch, recipe)

    def encode(params: Params, rows: Batch) -> tuple[Embeddings, Params]:
        variables = {"params": params, **state.model_state}
        pixels, mutable = normalise(rows.image), list(state.model_state)
        return cast(tuple, recipe.model.apply(variables, pixels, rows.tokens, train=True, mutable=mutable))

    def loss(params: Params) -> tuple[jax.Array, tuple[dict[str, jax.Array], Params]]:
        encoder = functools.partial(encode, params["model"])
        embeddings, model_state = in_micro_batches(encoder, batch, recipe.micro_batches, recipe.mesh)
        ids, taus = batch.image_index, params["taus"]
        total, terms = objective.of_embeddings(
            embeddings, labels, ids, taus, recipe.loss, groups=recipe.groups, mesh=recipe.mesh
        )
        return total, (terms, model_state)

    (total, (terms, model_state)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, params)
    metrics = {
        "loss": total,
        **{f"loss_{name}": value for name, value in terms.items()},
        "gradient_norm": optax.tree.norm(gradients),
        "update_norm": optax.tree.norm(updates),
        **{f"tau_{name}": tau for name, tau in taus.items()},
    }
    if batch.replaced is not None:
        metrics["rows_replaced"] = batch.replaced.sum()
    params = optax.apply_updates(params, updates)
    return TrainState(state.step + 1, params, model_state, opt_state), metrics


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
    teach = functools.partial(teacher_features, recipe.teachers, teacher_params)
    return jax.lax.stop_gradient(in_micro_batches(teach, batch, recipe.micro_batches, recipe.mesh))


def init_state(recipe: Recipe, variables: Params) -> TrainState:
    """State before the first step. variables: the model's, {'params': …} and other collections."""
    model_state = {name: collection for name, collection in variables.items() if name != "params"}
    params = {"model": variables["params"], "taus": temperatures.init(recipe.temperatures)}
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, recipe.optimizer.init(params))


def encode_images(variables: Params, images: jax.Array, *, model: DualEncoder) -> tuple[jax.Array, jax.Array]:
    """uint8 [B, H, W, 3] -> (cross-modal, uni-modal) embeddings [B, E], not normalised."""
    return cast(tuple, model.apply(variables, normalise(images), method="encode_image"))


def encode_texts(variables: Params, tokens: jax.Array, *, model: DualEncoder) -> tuple[jax.Array, jax.Array]:
    """int32 [B, L] -> (cross-modal, uni-modal) embeddings [B, E], not normalised."""
    return cast(tuple, model.apply(variables, tokens, method="encode_text"))

"""One training step and the encoding passes: pure functions, jitted by the caller."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from cusa_jax import similarity, temperatures
from cusa_jax.data.images import normalise
from cusa_jax.models.dual_encoder import DualEncoder
from cusa_jax.objective import objective
from cusa_jax.teachers.control import teacher_features
from cusa_jax.temperatures import Temperature
from cusa_jax.types import Batch, Embeddings, Params, SoftLabels, Teachers, TrainState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What stays the same from step to step: everything that the compiled step is specialised to.

    loss: `config.loss`. groups: problems of local negatives per batch; 1 is global negatives.
    teachers: None trains on the contrastive loss alone. control: 'none' | 'shuffled' | 'uniform'.
    """

    model: DualEncoder
    temperatures: dict[str, Temperature]
    optimizer: optax.GradientTransformation
    loss: Any
    groups: int = 1
    teachers: Teachers | None = None
    control: str = "none"


def train_step(
    state: TrainState, teacher_params: Params, batch: Batch, *, recipe: Recipe
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Clamp temperatures, compare student and teachers, update. Returns the new state and float32 [] metrics.

    teacher_params: {'image': …, 'text': …}, frozen; None without teachers. batch: rows over all devices.
    """
    taus = temperatures.clamp(state.params["taus"], recipe.temperatures)
    params = {"model": state.params["model"], "taus": taus}
    labels = soft_labels(teacher_params, batch, recipe)
    ids = similarity.group_ids(batch.image_index, recipe.groups)

    def loss(params: Params) -> tuple[jax.Array, tuple[dict[str, jax.Array], Params]]:
        embeddings, model_state = recipe.model.apply(
            {"params": params["model"], **state.model_state},
            normalise(batch.image),
            batch.tokens,
            train=True,
            mutable=list(state.model_state),
        )
        student = similarity.student(cast(Embeddings, embeddings), recipe.groups)
        total, terms = objective(student, labels, ids, params["taus"], recipe.loss)
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


def soft_labels(teacher_params: Params, batch: Batch, recipe: Recipe) -> SoftLabels | None:
    """The teachers' similarities of a batch, without gradient; None where the recipe has no teachers."""
    if recipe.teachers is None:
        return None
    features = teacher_features(recipe.teachers, teacher_params, batch, recipe.control)
    return similarity.teacher(*jax.lax.stop_gradient(features), groups=recipe.groups)


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

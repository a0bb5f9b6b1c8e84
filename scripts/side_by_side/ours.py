"""This package on the weights and the YAML of the reference."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util

from cusa_jax import optim, sharding, similarity
from cusa_jax.config import typed
from cusa_jax.data.splits import load_split
from cusa_jax.evaluation.retrieval import Evaluator
from cusa_jax.experiment import student_options
from cusa_jax.models import clip
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.layers import Block
from cusa_jax.models.resnet import Bottleneck
from cusa_jax.step import Recipe, init_state, jitted, make_recipe
from cusa_jax.types import Batch, Embeddings, Params, Teacher, Teachers, TrainState
from cusa_jax.weights import openai, reference
from cusa_jax.weights.torch_layout import from_torch, to_torch

HEADS = tuple(f"{kind}_{side}" for kind in ("cross", "uni") for side in ("image", "text"))


class Ours:
    """Model, recipe and start state. tensors: the reference's state dict."""

    def __init__(
        self,
        raw: dict[str, Any],
        sizes: ClipConfig,
        tensors: dict[str, np.ndarray],
        steps_per_epoch: int,
        x64: bool,
    ):
        self.config = config = reference.config_of(raw, "the reference's YAML")
        settings = typed(config)
        self.dtype = np.dtype(np.float64 if x64 else np.float32)
        options = dataclasses.replace(student_options(settings), dtype=self.dtype.name)
        self.student = clip.student(sizes, options)
        self.table = openai.variables_table(sizes, self.student.heads, prefix="clip_model.")
        template = jax.eval_shape(self.student.init, jax.random.key(0))
        ignored = {f"clip_model\\.({rule})": why for rule, why in openai.IGNORED.items()}
        ignored[r"\w*tau\w*"] = "the temperatures, read below"
        variables = from_torch(tensors, template, self.table, ignored=ignored, where="the reference's model")

        rates = optim.learning_rates(settings.optim, settings.schedule, steps_per_epoch)
        self.learning_rates = rates[::steps_per_epoch]
        one = Teacher("given", lambda features, rows: features[rows], "index")
        self.recipe = make_recipe(
            self.student, settings.loss, settings.optim, rates, teachers=Teachers(one, one)
        )
        state = init_state(self.recipe, self._cast(variables))
        for name, scalar in self.recipe.scalars.items():
            # One that only we have, because the reference would crash, starts by itself.
            start = tensors.get(reference.TEMPERATURE_NAMES[name], np.float32(scalar.init))
            state.params["scalars"][name] = jnp.asarray(start, self.dtype)
        self.state = dataclasses.replace(state, opt_state=self.recipe.optimizer.init(state.params))

    def _cast(self, tree: Params) -> Params:
        return jax.tree.map(lambda x: jnp.asarray(x, self.dtype), tree)

    def named(self, variables: Params) -> dict[str, np.ndarray]:
        """A tree shaped like the variables -> the reference's names and layouts."""
        return to_torch(jax.device_get(variables), self.table)

    def encode(self, pixels: np.ndarray, tokens: np.ndarray) -> tuple[dict, dict]:
        """(outputs of the blocks by module path, features {'image', 'cross_image', …})."""
        sides = {"image": self._cast(pixels), "text": jnp.asarray(tokens)}

        def encode(variables: Params, sides: dict[str, jax.Array]) -> tuple[dict, dict]:
            encoded, seen = self.student.module.apply(
                variables,
                method=lambda module: {side: module.encode(side, rows) for side, rows in sides.items()},
                capture_intermediates=_is_captured,
                mutable=["intermediates"],
            )
            flat = traverse_util.flatten_dict(seen["intermediates"], sep="/")
            return {name.removesuffix("/__call__"): out for name, (out,) in flat.items()}, encoded

        outputs, encoded = jax.device_get(jax.jit(encode)(self.state.variables, sides))
        features = {f"{kind}_{side}": encoded[side][kind] for kind in ("cross", "uni") for side in sides}
        features |= {side: outputs.pop(side) for side in sides}
        return outputs, features

    def similarities(self, features: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """(image-text, image-image, text-text) of the heads' features."""
        s = similarity.student(Embeddings(*(jnp.asarray(features[name]) for name in HEADS)))
        return tuple(np.asarray(x) for x in (s.image_text, s.image_image, s.text_text))

    def soft_labels(self, soft: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        labels = similarity.teacher(*(self._cast(soft[side]) for side in ("image", "text")))
        return np.asarray(labels.image), np.asarray(labels.text)

    def gradients(self, batch: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(weighted terms, gradients by the reference's names, temperatures too), out of the train step itself."""
        remember = optax.GradientTransformation(
            init=lambda params: params, update=lambda grads, *_: (jax.tree.map(jnp.zeros_like, grads), grads)
        )
        recipe = dataclasses.replace(self.recipe, optimizer=remember)
        state, metrics = self._step(recipe)(
            dataclasses.replace(self.state, opt_state=None), *self._inputs(batch)
        )
        gradients = jax.device_get(state.opt_state)
        taus = {reference.TEMPERATURE_NAMES[name]: np.asarray(g) for name, g in gradients["scalars"].items()}
        return self._terms(metrics), self.named({"params": gradients["model"]}) | taus

    def train(self, batches: list[Any]) -> tuple[np.ndarray, list[dict[str, float]], TrainState]:
        """(weighted terms [N, 3], temperatures after each step, the last state)."""
        state, step, terms, taus = self.state, self._step(self.recipe), [], []
        for batch in batches:
            state, metrics = step(state, *self._inputs(batch))
            terms.append(self._terms(metrics))
            taus.append(
                {reference.TEMPERATURE_NAMES[n]: float(t) for n, t in state.params["scalars"].items()}
            )
        return np.asarray(terms), taus, state

    def evaluate(self, folder: Path) -> dict[str, float]:
        mesh = sharding.make_mesh()
        self.config.eval.batch_size = 32
        split = load_split(str(folder), "test", self.student.inputs, image_root="")
        return Evaluator(self.student, mesh, self.config)(self.state.variables, split)

    def _step(self, recipe: Recipe) -> Any:
        return jitted(recipe, donate=False)

    def _inputs(self, batch: Any) -> tuple[Params, Batch]:
        rows = np.arange(len(batch.tokens), dtype=np.int32)
        pixels = np.asarray(batch.pixels, self.dtype)
        return self._cast(batch.soft), Batch(pixels, batch.tokens, batch.image_index, rows, rows, rows)

    def _terms(self, metrics: dict[str, jax.Array]) -> np.ndarray:
        loss = self.config.loss
        return np.asarray([loss[t].weight * metrics[f"loss_{t}"] for t in ("csa", "usa", "contrastive")])


def _is_captured(module: nn.Module, method: str) -> bool:
    """The blocks, and the towers themselves."""
    return method == "__call__" and (
        isinstance(module, Block | Bottleneck) or module.name in ("image", "text")
    )

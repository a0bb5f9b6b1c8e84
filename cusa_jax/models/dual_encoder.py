"""A dual encoder: two towers with up to two pairs of heads, compared by the cosine of their embeddings."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax import similarity
from cusa_jax.data.images import normalise
from cusa_jax.inputs import Inputs, Pixels
from cusa_jax.models.heads import ProjectionHead
from cusa_jax.models.student import ModelState, Rngs, Side, Variables
from cusa_jax.types import Array, Embeddings, Similarities


class DualEncoder(nn.Module):
    """`image` and `text` towers, each (rows, train) -> features [B, E]; `heads`, of 'cross' and 'uni', are pairs.

    'cross' heads serve the image-text terms, 'uni' heads the uni-modal ones. Parameter tree:
    {'image': …, 'text': …, '{cross,uni}_{image,text}': {'ln', 'linear'}}. Without a pair of heads its embeddings are
    the towers' features (reference unire/model.py:148-166).
    """

    image: nn.Module
    text: nn.Module
    heads: tuple[str, ...] = ("cross", "uni")

    def setup(self):
        for kind in self.heads:
            setattr(self, f"{kind}_image", ProjectionHead())
            setattr(self, f"{kind}_text", ProjectionHead())

    def __call__(self, image: Array, tokens: Array, train: tuple[Side, ...] = ()) -> Embeddings:
        """-> Embeddings, each [B, E]. train: the sides in training mode."""
        cross_image, uni_image = self.embed("image", image, "image" in train)
        cross_text, uni_text = self.embed("text", tokens, "text" in train)
        return Embeddings(cross_image, cross_text, uni_image, uni_text)

    def embed(self, side: Side, rows: Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """(cross-modal, uni-modal) embeddings of one side, each [B, E], in float32 or wider."""
        features = getattr(self, side)(rows, train)
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        cross, uni = (
            getattr(self, f"{kind}_{side}")(features) if kind in self.heads else features
            for kind in ("cross", "uni")
        )
        return cross, uni


@dataclasses.dataclass(frozen=True)
class DualEncoderStudent:
    """`models.student.Student` and `Embeds` of a DualEncoder, whose towers take normalised pixels (or regions)."""

    family: str
    sizes: Any
    inputs: Inputs
    module: DualEncoder
    rows_independent: bool = True

    @property
    def heads(self) -> tuple[str, ...]:
        return self.module.heads

    def init(self, key: jax.Array) -> Variables:
        """Fresh float32 variables. Heads draw from their own keys, so adding a pair leaves the rest as it was."""
        image, text = self.inputs.image, self.inputs.text
        rows = (
            jnp.zeros((1, image.size, image.size, 3))
            if isinstance(image, Pixels)
            else jnp.zeros((1, image.count, image.width))
        )
        return self.module.init(key, rows, jnp.zeros((1, text.length), jnp.int32))

    def encode(
        self,
        variables: Variables,
        image: Array,
        tokens: Array,
        *,
        train: tuple[Side, ...] = (),
        rngs: Rngs = None,
    ) -> tuple[Embeddings, ModelState]:
        mutable = [name for name in variables if name != "params"] if train else []
        return cast(
            tuple,
            self.module.apply(variables, self._image(image), tokens, train, mutable=mutable, rngs=rngs),
        )

    def encode_side(self, variables: Variables, side: Side, rows: Array) -> tuple[jax.Array, jax.Array]:
        return self.embed(variables, side, rows)

    def compare(
        self,
        variables: Variables,
        encoded: Embeddings,
        *,
        groups: int = 1,
        train: bool = False,
        rngs: Rngs = None,
    ) -> tuple[Similarities, ModelState]:
        return similarity.student(encoded, groups), {}

    def score(self, variables: Variables, images: Any, texts: Any) -> jax.Array:
        return similarity.cosines(images[0], texts[0])

    def embed(self, variables: Variables, side: Side, rows: Array) -> tuple[jax.Array, jax.Array]:
        rows = self._image(rows) if side == "image" else rows
        return cast(tuple, self.module.apply(variables, side, rows, method="embed"))

    def _image(self, rows: Array) -> Array:
        spec = self.inputs.image
        return normalise(rows, mean=spec.mean, std=spec.std) if isinstance(spec, Pixels) else rows

"""A dual encoder: two towers with up to two pairs of heads, compared by the cosine of their embeddings."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax import similarity
from cusa_jax.models.heads import HEADS, HeadKind
from cusa_jax.models.linen_student import LinenStudent
from cusa_jax.models.student import Encoded, ModelState, Rngs, Side, Variables
from cusa_jax.types import Array, Embeddings, Similarities


class DualEncoder(nn.Module):
    """`image` and `text` towers, each (rows, train) -> features [B, E]; `heads`, of 'cross' and 'uni', are pairs.

    'cross' heads serve the image-text terms, 'uni' heads the uni-modal ones; head_kind says what they are. Parameter
    tree: {'image': …, 'text': …, '{cross,uni}_{image,text}': {'ln', 'linear'}}; residual heads have no 'ln'. Without
    a pair of heads its embeddings are
    the towers' features (reference unire/model.py:148-166).
    """

    image: nn.Module
    text: nn.Module
    heads: tuple[str, ...] = ("cross", "uni")
    head_kind: HeadKind = "linear"

    def setup(self):
        for kind in self.heads:
            setattr(self, f"{kind}_image", HEADS[self.head_kind]())
            setattr(self, f"{kind}_text", HEADS[self.head_kind]())

    def encode(self, side: Side, rows: Array, train: bool = False) -> dict[str, jax.Array]:
        """{'cross', 'uni'} embeddings of one side, each [B, E], in float32 or wider, not normalised."""
        features = getattr(self, side)(rows, train)
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        return {
            kind: getattr(self, f"{kind}_{side}")(features) if kind in self.heads else features
            for kind in ("cross", "uni")
        }

    def score(self, images: dict[str, jax.Array], texts: dict[str, jax.Array]) -> jax.Array:
        """Cosines [M, N] of the cross-modal embeddings."""
        return similarity.cosines(images["cross"], texts["cross"])


@dataclasses.dataclass(frozen=True)
class DualEncoderStudent(LinenStudent):
    """A LinenStudent whose module is a DualEncoder; it also has `Embeds`."""

    module: DualEncoder

    @property
    def heads(self) -> tuple[str, ...]:
        return self.module.heads

    def embed(self, variables: Variables, side: Side, rows: Array) -> tuple[jax.Array, jax.Array]:
        """(cross-modal, uni-modal) embeddings [B, E] of one side, in evaluation, not normalised."""
        encoded = self.encode_side(variables, side, rows)
        return encoded["cross"], encoded["uni"]

    def compare(
        self,
        variables: Variables,
        encoded: Encoded,
        *,
        groups: int = 1,
        train: bool = False,
        rngs: Rngs = None,
    ) -> tuple[Similarities, ModelState]:
        return similarity.student(self.embeddings(encoded), groups), {}

    def embeddings(self, encoded: Any) -> Embeddings:
        """What `encode` made of both sides, as the losses take it."""
        image, text = encoded["image"], encoded["text"]
        return Embeddings(image["cross"], text["cross"], image["uni"], text["uni"])

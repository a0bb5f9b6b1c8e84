"""SigLIP's sigmoid loss: every pair of image and caption is classified by itself, without a softmax over the batch.

Zhai et al., Sigmoid Loss for Language Image Pre-Training, arXiv 2303.15343. SigLIP's logit scale is 1/τ.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cusa_jax.losses.alignment import positives
from cusa_jax.losses.problem import RowSums, Tile
from cusa_jax.losses.ranges import LearntRange, LearntTemperature, scalar
from cusa_jax.losses.term import Compared, Scalar, Scalars, Term
from cusa_jax.settings import number, section


def sigmoid(
    image_text: jax.Array, ids: jax.Array | None, tau: jax.Array | float, bias: jax.Array | float
) -> jax.Array:
    """Mean over captions of −Σ log σ(±(S/τ + bias)) over the images: plus for pairs that belong together, else minus.

    image_text: S [..., B, B]. ids: int [..., B]; rows with equal ids belong together, beyond the diagonal that
    SigLIP's own batches of distinct images have; None means the diagonal alone. Returns a scalar.
    """
    return _surprise(image_text / tau + bias, positives(image_text, ids)).sum(axis=-1).mean()


def _surprise(logits: jax.Array, positive: jax.Array) -> jax.Array:
    """−log of the probability that each pair's logit gives to what the pair is."""
    return -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))


@dataclasses.dataclass(frozen=True)
class Settings:
    weight: float = number(0.0, "of SigLIP's sigmoid loss; 0 is off, and it is not measured", low=0)
    tau: LearntTemperature = section(LearntTemperature, init=0.1, min=0.001, max=1.0)
    bias: LearntRange = section(LearntRange, init=-10.0, min=-100.0, max=100.0)


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """The sigmoid loss in tiles: plain sums over the pairs of a row. tau, bias: names of scalars."""

    tau: str = "tau_sigmoid"
    bias: str = "bias_sigmoid"
    pair: str = "text_image"

    def start(self, zeros: jax.Array) -> RowSums:
        return RowSums(maxima=(), sums=zeros)

    def add(self, rows: RowSums, tile: Tile, scalars: Scalars) -> RowSums:
        logits = tile.student[self.pair] / scalars[self.tau] + scalars[self.bias]
        surprise = jnp.where(tile.counts, _surprise(logits, tile.positive), 0)
        return RowSums(maxima=(), sums=rows.sums + surprise.sum(axis=-1))

    def value(self, sums: jax.Array, columns: int) -> jax.Array:
        return sums


def _scalars(loss: Any) -> dict[str, Scalar]:
    own = loss.sigmoid
    return {"tau_sigmoid": scalar(own.tau, own.weight), "bias_sigmoid": scalar(own.bias, own.weight)}


def _dense(compared: Compared, scalars: Scalars, loss: Any) -> jax.Array:
    image_text = compared.similarities.image_text
    return sigmoid(image_text, compared.ids, scalars["tau_sigmoid"], scalars["bias_sigmoid"])


TERM = Term(
    name="sigmoid",
    reads=frozenset({"image_text"}),
    settings=Settings(),
    scalars=_scalars,
    dense=_dense,
    tiled=lambda loss: (Sigmoid(),),
)

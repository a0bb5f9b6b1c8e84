"""A loss without its B×B matrix: what a problem has to say, so that `tiled.py` can solve it tile by tile.

A problem's value of a row is a function of sums over the row's columns. Tiles of columns come one after another, each
with the similarities of some rows and columns, and add to the sums. Gradients follow by differentiating `add` and
`value`: nothing but the sums is remembered, and every tile is computed again in the backward pass.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
from flax import struct

from cusa_jax.types import SoftLabels

# The matrices that a problem can ask for, and the features of the rows and of the columns that they compare.
PAIRS = {
    "image_text": ("cross_image", "cross_text"),
    "text_image": ("cross_text", "cross_image"),
    "image_image": ("uni_image", "uni_image"),
    "text_text": ("uni_text", "uni_text"),
}


@struct.dataclass
class Tile:
    """What t rows and t' columns are to each other, in float32 or wider.

    student: {pair: cosine similarities [t, t']}, of the pairs that are asked for. labels: the teachers', [t, t'].
    positive: bool [t, t'], whether row and column are of the same image. counts: bool [t'], False for columns that
    only fill up the tile, which must not enter any sum.
    """

    student: dict[str, jax.Array]
    labels: SoftLabels | None
    positive: jax.Array
    counts: jax.Array


@struct.dataclass
class RowSums:
    """Sums over the columns met so far, [t] each, and the maxima that they are counted from, such as of an online
    softmax; () where they are plain sums."""

    maxima: Any
    sums: Any


class Problem(Protocol):
    """One mean over rows. Instances are immutable and compare by value: the compiled loss is specialised to them."""

    @property
    def pair(self) -> str:
        """The matrix that it reads: a key of PAIRS."""

    def start(self, zeros: jax.Array) -> RowSums:
        """Before the first column. zeros: of the shape and dtype that every sum has."""

    def add(self, rows: RowSums, tile: Tile, scalars: Any) -> RowSums:
        """With the columns of one more tile. The new sums are differentiable in tile.student and scalars; the new
        maxima are constants. From maxima that no later tile exceeds, tiles simply add up."""

    def value(self, sums: Any, columns: int) -> jax.Array:
        """The rows' values [t] from the sums over all columns."""

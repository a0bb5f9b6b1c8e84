"""Softmax losses in tiles: one direction of the contrastive loss, CSA or USA, by an online softmax.

A row of logits b = S/τ meets soft targets softmax(a), where a = T/τ_t for CSA and USA, and for the contrastive loss
a = 0 at the positives and −∞ elsewhere. The divergence needs only sums over the row, gathered column tile by column
tile (as in FlashAttention and, for the contrastive loss, in Inf-CL, arXiv 2410.17243). With a and b counted from their
maxima, as always here,

    A = Σ exp(a)    B = Σ exp(b)    U = Σ exp(a) (a − b)    KL = U/A − log A + log B

and the cross-entropy has neither the a in U nor log A.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from cusa_jax.losses.alignment import Divergence, Reduction, Targets, check_mode, row_divisor, targets_of
from cusa_jax.losses.problem import RowSums, Tile
from cusa_jax.losses.term import Scalars

# The similarity of what does not count. Finite, or a tile without a single positive would compute −∞ − (−∞).
NOTHING = -1e30


@dataclasses.dataclass(frozen=True)
class Softmax:
    """One direction of a softmax loss.

    pair: of `problem.PAIRS`; the targets are those of its rows' modality. targets: 'ids' are the positives, which
    share the mass equally. tau, teacher_tau: names of scalars; teacher_tau None is 1. divergence, reduction: as in
    `alignment.align`. An unknown mode raises InputError.
    """

    pair: str
    targets: Targets | Literal["ids"]
    tau: str
    teacher_tau: str | None = None
    divergence: Divergence = "cross_entropy"
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        check_mode("targets", self.targets, Literal["each", "add", "dot", "ids"])
        check_mode("divergence", self.divergence, Divergence)
        check_mode("reduction", self.reduction, Reduction)

    def start(self, zeros: jax.Array) -> RowSums:
        return RowSums(maxima=(zeros + NOTHING, zeros + NOTHING), sums=(zeros, zeros, zeros))

    def add(self, rows: RowSums, tile: Tile, scalars: Scalars) -> RowSums:
        tau = scalars[self.tau]
        teacher_tau = 1.0 if self.teacher_tau is None else scalars[self.teacher_tau]
        target = jnp.where(tile.counts, self._target(tile), NOTHING)
        similarity = jnp.where(tile.counts, tile.student[self.pair], NOTHING)
        maxima = (_maximum(rows.maxima[0], target), _maximum(rows.maxima[1], similarity))
        # Counting from maxima of similarities, not of logits, keeps the gradients of the temperatures from cancelling.
        a = (target - maxima[0][:, None]) / teacher_tau
        b = (similarity - maxima[1][:, None]) / tau
        w = jnp.exp(a)
        sum_a, sum_b, u = self._recounted(rows, maxima, tau, teacher_tau)
        sum_a += w.sum(axis=-1)
        sum_b += jnp.exp(b).sum(axis=-1)
        u += (w * (self._if_kl(a) - b)).sum(axis=-1)
        return RowSums(maxima, (sum_a, sum_b, u))

    def value(self, sums: tuple[jax.Array, jax.Array, jax.Array], columns: int) -> jax.Array:
        sum_a, sum_b, u = sums
        # One logarithm of the quotient: where a ≈ b, the two would cancel all but their rounding.
        log_quotient = jnp.log(sum_b / (sum_a if self.divergence == "kl" else 1.0))
        return (u / sum_a + log_quotient) / row_divisor(columns, self.divergence, self.reduction)

    def _target(self, tile: Tile) -> jax.Array:
        """T of the rows' modality, [t, t']."""
        if self.targets == "ids":
            dtype = tile.student[self.pair].dtype
            return jnp.where(tile.positive, 0, jnp.asarray(NOTHING, dtype))
        assert tile.labels is not None, "a term that reads labels is computed only where there are some"
        of_images, of_texts = targets_of(tile.labels, self.targets)
        return of_images if self.pair.startswith("image") else of_texts

    def _recounted(
        self,
        rows: RowSums,
        maxima: tuple[jax.Array, jax.Array],
        tau: jax.Array,
        teacher_tau: jax.Array | float,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The sums so far, counted from new maxima."""
        sum_a, sum_b, u = rows.sums
        lost_a = (rows.maxima[0] - maxima[0]) / teacher_tau
        lost_b = (rows.maxima[1] - maxima[1]) / tau
        keep_a = jnp.exp(lost_a)
        return keep_a * sum_a, jnp.exp(lost_b) * sum_b, keep_a * (u + sum_a * (self._if_kl(lost_a) - lost_b))

    def _if_kl(self, a: jax.Array) -> jax.Array | float:
        return a if self.divergence == "kl" else 0.0


def _maximum(before: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.maximum(before, lax.stop_gradient(matrix.max(axis=-1)))

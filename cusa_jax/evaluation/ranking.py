"""Where the right answers stand: ranks by counting, on device, one block of queries at a time.

A query's rank is the number of items before its best right answer, which needs a comparison per item and no sort.
Equal scores rank by item number, lower first; how far ties could move a rank is returned with it. Right answers
and the rest are compared within one block of scores, so that rounding cannot put an item before its equal.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cusa_jax import sharding
from cusa_jax.errors import InputError
from cusa_jax.progress import progress

# Scores held at a time by each device: 128 MiB of float32, enough for a matrix product at full speed.
BLOCK_SCORES = 1 << 25
# Scores that are there already are copied to the device: 16 MiB at a time, memory that the next copy takes again.
_COPIED_SCORES = 1 << 22


class Rows(Protocol):
    """Rows by their numbers, float [B, width] for int [B]: an array, or something that computes them when asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Positives:
    """The right answers of Q queries: those of query q are `items[starts[q] : starts[q + 1]]`, ascending, no repeats.

    starts: int64 [Q + 1]. items: int32.
    """

    starts: np.ndarray
    items: np.ndarray

    @classmethod
    def of_pairs(cls, query: np.ndarray, item: np.ndarray, queries: int) -> Positives:
        """query, item: int [n], the number of a query in range(queries) and of an item that answers it."""
        width = int(item.max(initial=0)) + 1
        query, item = np.divmod(np.unique(query.astype(np.int64) * width + item), width)
        return cls(np.r_[0, np.cumsum(np.bincount(query, minlength=queries))], item.astype(np.int32))

    @classmethod
    def of_matrix(cls, relevant: np.ndarray) -> Positives:
        """bool [Q, N]: does item n answer query q?"""
        return cls(np.r_[0, np.cumsum(relevant.sum(1))], np.nonzero(relevant)[1].astype(np.int32))

    @classmethod
    def of_groups(cls, group: np.ndarray, groups: int) -> Positives:
        """group: int [N], the one query in range(groups) that each item answers."""
        return cls(
            np.r_[0, np.cumsum(np.bincount(group, minlength=groups))],
            np.argsort(group, kind="stable").astype(np.int32),
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> np.ndarray:
        """int [Q], right answers per query."""
        return np.diff(self.starts)

    @property
    def most(self) -> int:
        """The largest number of right answers of a query."""
        return int(self.counts.max(initial=0))

    def padded(self, queries: np.ndarray, width: int, fill: int) -> np.ndarray:
        """int32 [len(queries), width]: the answers of some queries, filled up with `fill`."""
        place = np.arange(width)
        index = np.minimum(self.starts[queries, None] + place, len(self.items) - 1)
        return np.where(place < self.counts[queries, None], self.items[index], np.int32(fill))


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Where the best right answer of each answerable query stands, 0 being first: int [A] each.

    queries: numbers of the queries that have a right answer; the others have no rank.
    rank: with equal scores in order of item number. best, worst: if ties fell for, or against, the query.
    positives: right answers per query.
    hits: bool [A, depth], is the item at each place a right answer? Depth 0 unless asked for.
    """

    queries: np.ndarray
    rank: np.ndarray
    best: np.ndarray
    worst: np.ndarray
    positives: np.ndarray
    hits: np.ndarray


def rank(
    queries: Rows,
    items: np.ndarray | None,
    positives: Positives,
    *,
    excluded: np.ndarray | None = None,
    depth: int = 0,
    mesh: Mesh | None = None,
    label: str = "",
) -> Ranking:
    """Ranks N items for each of Q queries by inner product, computed in float32.

    queries: float [Q, D]. items: float [N, D]; None where the rows of `queries` are the scores [Q, N] themselves.
    excluded: int [Q], an item that is no answer to a query, such as the query itself.
    depth: how many places of `hits` to return, at most N; the largest number of right answers is what mAP@R needs.
    mesh: devices that share the queries; all of them by default. label: of the progress bar; '' shows none.
    Raises InputError where nothing has a right answer.
    """
    mesh = mesh or sharding.make_mesh()
    answerable = np.flatnonzero(positives.counts)
    if not len(answerable):
        raise InputError("no query has a right answer among the items: there is nothing to retrieve")
    n_items = queries.shape[1] if items is None else len(items)
    width = positives.most
    # Blocks of one size, which share the queries evenly: the last one is hardly filled up.
    block = (
        min(BLOCK_SCORES, _COPIED_SCORES)
        if isinstance(queries, np.ndarray) and items is None
        else BLOCK_SCORES
    )
    blocks_needed = -(-len(answerable) // max(1, block // n_items * mesh.size))
    rows = sharding.round_up(-(-len(answerable) // blocks_needed), mesh.size)
    replicated = None if items is None else replicated_rows(np.asarray(items, np.float32), mesh)

    blocks = []
    for start in progress(range(0, len(answerable), rows), what=label, unit="block", shown=bool(label)):
        here = answerable[start : start + rows]
        padded = np.resize(here, rows)
        arrays = (
            _filled(np.asarray(queries[here], np.float32), rows),
            positives.padded(padded, width, fill=n_items),
            None if excluded is None else excluded[padded].astype(np.int32),
        )
        on_device = (None if array is None else sharding.put_rows(array, mesh) for array in arrays)
        out = _rank_block(*on_device, replicated, depth=min(depth, n_items))
        blocks.append([sharding.fetch(array)[: len(here)] for array in out])
    better, before, tied, hits = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return Ranking(
        queries=answerable,
        rank=better + before,
        best=better,
        worst=better + tied,
        positives=positives.counts[answerable],
        hits=hits,
    )


@functools.partial(jax.jit, static_argnames="depth")
def _rank_block(
    queries: jax.Array,
    positives: jax.Array,
    excluded: jax.Array | None,
    items: jax.Array | None,
    *,
    depth: int,
) -> tuple[jax.Array, ...]:
    """For queries [B, D]: items better than the best positive, equal to it and before it, equal but wrong: [B]
    each; and hits bool [B, depth]. The item number N (one too many) in positives [B, P] is none. excluded: [B].
    """
    scores = queries if items is None else jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)
    row = jnp.arange(len(scores))[:, None]
    if excluded is not None:
        scores = scores.at[row, excluded[:, None]].set(-jnp.inf)
    right = scores.at[row, positives].get(mode="fill", fill_value=-jnp.inf)
    best = right.max(1, keepdims=True)
    first = jnp.where(right == best, positives, scores.shape[1]).min(1, keepdims=True)
    tied = scores == best
    better, before, equal = _counts(scores > best, tied & (jnp.arange(scores.shape[1]) < first), tied)
    wrong = equal - (right == best).sum(1)
    if not depth:
        return better, before, wrong, jnp.zeros((len(scores), 0), bool)
    # `top_k` is stable: equal scores keep the order of their numbers.
    places = jax.lax.top_k(scores, depth)[1]
    found = jax.vmap(jnp.searchsorted)(positives, places)
    return better, before, wrong, jnp.take_along_axis(positives, found, axis=1, mode="clip") == places


def _counts(*masks: jax.Array) -> tuple[jax.Array, ...]:
    """How many of each row are true, int32 [B], for masks bool [B, N].

    One pass over all: on CPUs XLA writes down, as integers, what it sums alone, which takes ten times as long.
    """
    zero = jnp.int32(0)
    return jax.lax.reduce(
        tuple(mask.astype(jnp.int32) for mask in masks),
        (zero,) * len(masks),
        lambda sums, counts: tuple(map(jnp.add, sums, counts)),
        (1,),
    )


def _filled(rows: np.ndarray, count: int) -> np.ndarray:
    """[count, …], filled up by repetition where there are fewer."""
    return rows if len(rows) == count else np.resize(rows, (count, *rows.shape[1:]))


def replicated_rows(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """An array that every process holds -> whole on every device."""
    return jax.make_array_from_callback(array.shape, NamedSharding(mesh, P()), lambda index: array[index])

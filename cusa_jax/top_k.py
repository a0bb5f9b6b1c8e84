"""Exact search: the items with the highest inner products, scored tile by tile on device."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

_TILE = 1 << 16  # items scored at a time, for
_BLOCK = 1 << 10  # so many queries


def top_k(
    queries: np.ndarray, items: np.ndarray, k: int, *, tile: int = _TILE, block: int = _BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """The min(k, N) best of N items [N, E] for each query [Q, E], best first; equal scores by number, lower first.

    Returns (scores float32 [Q, k], item numbers int32 [Q, k]).
    """
    k, tile, block = min(k, len(items)), min(tile, len(items)), min(block, len(queries))
    blocks = []
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        best = _best(np.resize(rows, (block, queries.shape[1])), items, k, tile)
        blocks.append([np.asarray(part)[: len(rows)] for part in best])
    scores, numbers = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return scores, numbers


def _best(queries: np.ndarray, items: np.ndarray, k: int, tile: int) -> tuple[jax.Array, jax.Array]:
    """Rows are padded by repetition, so that one compilation serves the last tile and the last block too."""
    on_device = jnp.asarray(queries, jnp.float32)
    best = (jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), jnp.int32))
    for start in range(0, len(items), tile):
        rows = items[start : start + tile]
        padded = np.resize(rows, (tile, items.shape[1]))
        best = _merge(best, on_device, jnp.asarray(padded, jnp.float32), start, len(rows), k=k)
    return best


@functools.partial(jax.jit, static_argnames="k")
def _merge(
    best: tuple[jax.Array, jax.Array], queries: jax.Array, tile: jax.Array, start: int, rows: int, *, k: int
) -> tuple[jax.Array, jax.Array]:
    """The best k of those so far and of a tile, whose first item is number `start` and which has `rows` items."""
    row = jnp.arange(len(tile))
    scores = jnp.matmul(queries, tile.T, precision=jax.lax.Precision.HIGHEST)
    scores = jnp.where(row < rows, scores, -jnp.inf)
    # `top_k` is stable, and lower numbers stand first.
    scores = jnp.concatenate([best[0], scores], axis=1)
    numbers = jnp.concatenate([best[1], jnp.broadcast_to(start + row, (len(queries), len(tile)))], axis=1)
    scores, places = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(numbers, places, axis=1)

"""Which captions make up the batch of a step: a function of (seed, step) and of nothing else."""

from __future__ import annotations

import functools

import numpy as np


def batch_rows(step: int, *, rows: int, batch_size: int, seed: int) -> np.ndarray:
    """Caption rows of the global batch at `step`, int64 [batch_size]; every epoch is a new permutation."""
    epoch, batch = divmod(step, rows // batch_size)
    return _permutation(rows, seed, epoch)[batch * batch_size : (batch + 1) * batch_size]


def partners(count: int, seed: tuple[int, ...], shuffled: bool) -> np.ndarray:
    """int32 [count], whom the teachers see in the place of each: another one, or each itself."""
    return derangement(count, seed) if shuffled else np.arange(count, dtype=np.int32)


def derangement(count: int, seed: tuple[int, ...]) -> np.ndarray:
    """A random cyclic permutation, int32 [count]: no element stays in its place (for count > 1)."""
    cycle = np.random.default_rng(seed).permutation(count).astype(np.int32)
    partner = np.empty(count, np.int32)
    partner[cycle] = np.roll(cycle, 1)
    return partner


@functools.lru_cache(maxsize=2)
def _permutation(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)

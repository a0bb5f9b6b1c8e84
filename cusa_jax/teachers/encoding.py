"""A live teacher over a whole split, batch by batch, all devices together."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.data.tokenize import text_length_bucket, text_lengths
from cusa_jax.types import Teacher

# (sample numbers int [b], what the teacher's `apply` takes for batch_size >= b samples).
Inputs = Iterable[tuple[np.ndarray, Any]]


def encode_all(teacher: Teacher, inputs: Inputs, mesh: Mesh) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(sample numbers int [b], features float32 [b, D]) of every batch, on every process."""
    params = sharding.put_params(teacher.params, mesh)
    apply = jax.jit(teacher.apply)
    for numbers, batch in inputs:
        rows = jax.tree.map(lambda x: sharding.put_rows(x, mesh), batch)
        yield numbers, sharding.fetch(apply(params, rows))[: len(numbers)]


def text_batches(text: dict[str, np.ndarray], batch_size: int, first_batch: int = 0) -> Inputs:
    """From all captions' tokens, int32 [N, L] each, those of `batch_size` captions at a time.

    In order of length, the longest first: little padding, few shapes to compile, and memory known at once.
    """
    lengths = text_lengths(text["attention_mask"])
    order = np.argsort(-lengths, kind="stable")
    for start in range(first_batch * batch_size, len(order), batch_size):
        rows = order[start : start + batch_size]
        cut = text_length_bucket(lengths[rows])
        yield rows, {key: _fill(ids[rows, :cut], batch_size) for key, ids in text.items()}


def _fill(rows: np.ndarray, batch_size: int) -> np.ndarray:
    return np.resize(rows, (batch_size, *rows.shape[1:]))

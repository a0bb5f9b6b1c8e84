"""A live teacher over a whole split, batch by batch, all devices together."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.data.tokenize import by_length, text_lengths
from cusa_jax.distributed import together
from cusa_jax.types import Params, Teacher

# (sample numbers int [b], what the teacher's `apply` takes for batch_size >= b samples).
NumberedBatches = Iterable[tuple[np.ndarray, Any]]


def encode_all(
    teacher: Teacher, params: Params, batches: NumberedBatches, mesh: Mesh
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(sample numbers int [b], features float32 [b, D]) of every batch, on every process.

    params: the teacher's, on the mesh.
    """
    apply = together(jax.jit(teacher.apply))
    for numbers, batch in batches:
        rows = jax.tree.map(lambda x: sharding.put_rows(x, mesh), batch)
        yield numbers, sharding.fetch(apply(params, rows))[: len(numbers)]


def text_batches(text: dict[str, np.ndarray], batch_size: int, first: int = 0) -> NumberedBatches:
    """Tokens of all captions, int32 [N, L] each, in batches `by_length`, from the caption at place `first` on."""
    for rows, width in by_length(text_lengths(text["attention_mask"]), batch_size, first):
        cut = {key: ids[rows, :width] for key, ids in text.items()}
        yield rows, {key: np.resize(ids, (batch_size, *ids.shape[1:])) for key, ids in cut.items()}

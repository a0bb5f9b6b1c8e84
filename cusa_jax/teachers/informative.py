"""Does a teacher tell samples apart? One that does not makes every soft label uniform, and CUSA a label smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.errors import InputError
from cusa_jax.teachers.encoding import encode_all
from cusa_jax.teachers.stored import Table
from cusa_jax.types import Params, Teacher

# Cosines that differ by less are equal to rounding, and in soft labels at the smallest temperature (0.1) to 1e-5.
_TOLERANCE = 1e-6
_ROWS_AT_ONCE = 256


def check_table(name: str, features: Table) -> None:
    """Raises InputError where all features [N, D] have one direction. Reads no further than the first other one."""
    if features.shape[0] > 1 and _alike(features):
        raise InputError(
            f"{name}: the features of all {features.shape[0]} samples have one direction, so that the soft labels are "
            "uniform; compute them again, or choose config.teacher.control='uniform' if that is meant"
        )


def check_live(teacher: Teacher, params: Params, samples: Sequence[Any], mesh: Mesh) -> None:
    """Raises InputError where the teacher's features of `samples` have one direction although the samples differ.

    Samples that are all the same to the teacher are warned of: captions of words that its tokenizer does not know.

    samples: a few of what the teacher's `apply` takes, each a pytree of arrays without the axis of the batch.
    """
    distinct = {b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(x)): x for x in samples}
    if len(distinct) < 2:
        logging.warning(
            "%s: this teacher is given the same input for each of %d samples: it cannot tell them apart",
            teacher.name,
            len(samples),
        )
        return
    rows = sharding.round_up(len(distinct), mesh.size)
    batch = jax.tree.map(
        lambda *leaves: np.resize(np.stack(leaves), (rows, *leaves[0].shape)), *distinct.values()
    )
    [(_, features)] = encode_all(teacher, params, [(np.arange(len(distinct)), batch)], mesh)
    if np.isfinite(features).all() and _alike(features):
        raise InputError(
            f"{teacher.name}: this teacher gives {len(distinct)} different samples features of one direction, so that "
            "its soft labels are uniform; are these the weights of a trained model?"
        )


def _alike(features: Table) -> bool:
    """Whether all rows that hold numbers have one direction; rows of zeros have none and count as alike."""
    first: np.ndarray | None = None
    for start in range(0, features.shape[0], _ROWS_AT_ONCE):
        rows = features[start : start + _ROWS_AT_ONCE].astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=1) & rows.any(axis=1)]
        if not len(rows):
            continue
        directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        first = directions[0] if first is None else first
        if (directions @ first < 1 - _TOLERANCE).any():
            return False
    return True

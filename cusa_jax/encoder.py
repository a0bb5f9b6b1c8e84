"""A student's two sides, compiled: batches of one size, whatever the number of rows."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.distributed import together
from cusa_jax.errors import InputError
from cusa_jax.models.student import Embeds, Side, Student, Variables


class Encoder:
    """Compiles once and serves any variables, which may be on the mesh or on the host.

    What it returns is the same on every process.

    batch_size: rows that go through at once, rounded up to split evenly over the devices.
    embeds: whether the student has embeddings; without, an image and a text can only be scored together.
    """

    def __init__(self, student: Student, mesh: Mesh, batch_size: int):
        self.student, self.mesh = student, mesh
        self.batch_size = sharding.round_up(batch_size, mesh.size)
        self.embeds = isinstance(self.student, Embeds)
        method = getattr(self.student, "embed" if self.embeds else "encode_side")
        self._encode = {
            side: together(jax.jit(functools.partial(_one_side, method, side))) for side in ("image", "text")
        }

    def images(self, variables: Variables, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(cross-modal, uni-modal) embeddings float32 [N, E] of length 1; rows are what `student.inputs` says.

        Raises InputError for a student without embeddings, and where one has no direction: the model is broken.
        """
        self.check_embeds()
        return self.side(variables, "image", rows)

    def texts(self, variables: Variables, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `images`, of token ids int32 [N, L]."""
        self.check_embeds()
        return self.side(variables, "text", tokens)

    def side(self, variables: Variables, side: Side, rows: np.ndarray) -> Any:
        """What `images` and `texts` return; of a student without embeddings, arrays [N, …] of its `encode_side`."""
        batches = [
            self._batch(self._encode[side], variables, rows[start : start + self.batch_size])
            for start in range(0, len(rows), self.batch_size)
        ]
        encoded = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
        return jax.tree.map(_unit, encoded) if self.embeds else encoded

    def _batch(self, encode: Any, variables: Variables, rows: np.ndarray) -> Any:
        padded = np.resize(rows, (self.batch_size, *rows.shape[1:]))
        encoded = encode(variables, sharding.put_rows(padded, self.mesh))
        return jax.tree.map(lambda x: sharding.fetch(x)[: len(rows)], encoded)

    def check_embeds(self) -> None:
        """Raises InputError for a student without embeddings."""
        if not self.embeds:
            raise InputError(
                f"a student of family '{self.student.family}' has no embeddings: it sees an image and a text together"
            )


def _one_side(method: Any, side: Side, variables: Variables, rows: jax.Array) -> Any:
    return method(variables, side, rows)


def _unit(embeddings: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise InputError("an embedding is NaN, infinite or zero: the model that it comes from is broken")
    return embeddings / length

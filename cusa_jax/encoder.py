"""Embeddings of any number of images and texts: batches of one size through the two compiled towers."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.distributed import together
from cusa_jax.errors import InputError
from cusa_jax.models.dual_encoder import DualEncoder
from cusa_jax.step import encode_images, encode_texts
from cusa_jax.types import Params


class Encoder:
    """Compiles once and serves any parameters, which may be on the mesh or on the host.

    Both methods return (cross-modal, uni-modal) embeddings, float32 [N, E] each, of length 1, the same on every
    process. They raise InputError where an embedding has no direction: the model is broken.

    batch_size: rows that go through a tower at once, rounded up to split evenly over the devices.
    """

    def __init__(self, model: DualEncoder, mesh: Mesh, batch_size: int):
        self.image_size, self.context_length = model.clip.image_size, model.clip.context_length
        self.batch_size = sharding.round_up(batch_size, mesh.size)
        self._mesh = mesh
        self._encode_images = together(jax.jit(functools.partial(encode_images, model=model)))
        self._encode_texts = together(jax.jit(functools.partial(encode_texts, model=model)))

    def images(self, params: Params, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """pixels: uint8 [N, image_size, image_size, 3]."""
        return self._run(self._encode_images, params, pixels)

    def texts(self, params: Params, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """tokens: int32 [N, L <= context_length], zero-padded."""
        return self._run(self._encode_texts, params, tokens)

    def _run(self, encode: Any, params: Params, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batches = [
            self._batch(encode, params, rows[start : start + self.batch_size])
            for start in range(0, len(rows), self.batch_size)
        ]
        cross, uni = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return _unit(cross), _unit(uni)

    def _batch(self, encode: Any, params: Params, rows: np.ndarray) -> list[np.ndarray]:
        padded = np.resize(rows, (self.batch_size, *rows.shape[1:]))
        out = encode(params, sharding.put_rows(padded, self._mesh))
        return [sharding.fetch(embeddings)[: len(rows)] for embeddings in out]


def _unit(embeddings: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise InputError("an embedding is NaN, infinite or zero: the model that it comes from is broken")
    return embeddings / length

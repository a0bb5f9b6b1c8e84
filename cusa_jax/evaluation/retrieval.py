"""Image-text retrieval on one split: encode every image and caption once, score all pairs, count.

The cross-modal heads are used for both modalities (reference evaluation.py:27-40).
"""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.data.pipeline import image_batches
from cusa_jax.data.splits import Split
from cusa_jax.evaluation.recall import recall
from cusa_jax.evaluation.relevance import relevance_metrics
from cusa_jax.models.dual_encoder import DualEncoder
from cusa_jax.step import encode_images, encode_texts
from cusa_jax.types import Params


class Evaluator:
    """Compiles the two encoders once and evaluates any number of splits and models.

    Nothing depends on which rows share a batch: a ResNet's norms use their running statistics.
    """

    def __init__(self, model: DualEncoder, mesh: Mesh, config: Any):
        self._mesh, self._config, self._size = mesh, config, model.clip.image_size
        self._batch_size = sharding.round_up(config.eval.batch_size, mesh.size)
        self._encode_images = jax.jit(functools.partial(encode_images, model=model))
        self._encode_texts = jax.jit(functools.partial(encode_texts, model=model))

    def __call__(self, variables: Params, split: Split) -> dict[str, float]:
        """Recall on annotated pairs; where the split knows its exact relevance, mAP@R, R-Precision, R@1 too.

        Images that cannot be read are left out with their captions (`data.on_bad_image='skip'`), and counted.
        """
        numbers, images = self._images(variables, split)
        captions = np.flatnonzero(np.isin(split.table.caption_image, numbers))
        texts = self._texts(variables, split.tokens[captions])
        scores = _normalised(images) @ _normalised(texts).T
        position = np.zeros(len(split.table.image_ids), np.int32)
        position[numbers] = np.arange(len(numbers))
        metrics = recall(scores, position[split.table.caption_image[captions]])
        if split.relevance is not None:
            metrics |= relevance_metrics(scores, split.relevance[np.ix_(captions, numbers)])
        missing = len(split.table.image_ids) - len(numbers)
        return metrics | ({"images_skipped": float(missing)} if missing else {})

    def _images(self, variables: Params, split: Split) -> tuple[np.ndarray, np.ndarray]:
        numbers, features = [], []
        for here, pixels in image_batches(
            split.table,
            batch_size=self._batch_size,
            image_size=self._size,
            workers=self._config.data.workers,
            on_bad_image=self._config.data.on_bad_image,
        ):
            numbers.append(here)
            features.append(self._run(self._encode_images, variables, pixels)[: len(here)])
        return np.concatenate(numbers), np.concatenate(features)

    def _texts(self, variables: Params, tokens: np.ndarray) -> np.ndarray:
        features = []
        for start in range(0, len(tokens), self._batch_size):
            rows = tokens[start : start + self._batch_size]
            padded = np.resize(rows, (self._batch_size, tokens.shape[1]))
            features.append(self._run(self._encode_texts, variables, padded)[: len(rows)])
        return np.concatenate(features)

    def _run(self, encode: Any, variables: Params, rows: np.ndarray) -> np.ndarray:
        """The cross-modal embeddings [B, E] of rows that every process holds alike."""
        cross, _ = encode(variables, sharding.put_rows(rows, self._mesh))
        return sharding.fetch(cross)


def _normalised(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)

"""Image-text retrieval on one split: encode every image and caption once, score all pairs, count.

The cross-modal heads are used for both modalities (reference evaluation.py:27-40).
"""

import dataclasses
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cusa_jax.data.pipeline import image_batches
from cusa_jax.data.splits import Split
from cusa_jax.encoder import Encoder
from cusa_jax.evaluation.recall import Scores, recall
from cusa_jax.evaluation.relevance import relevance_metrics
from cusa_jax.inputs import Pixels
from cusa_jax.models.dual_encoder import DualEncoder
from cusa_jax.types import Params


@dataclasses.dataclass(frozen=True)
class EmbeddedSplit:
    """The cross-modal embeddings of m readable images and of their n captions, by their numbers in the split.

    images: int32 [m]. captions: int64 [n]. image, text: float32 [m, E] and [n, E], of length 1.
    """

    images: np.ndarray
    captions: np.ndarray
    image: np.ndarray
    text: np.ndarray

    @property
    def scores(self) -> Scores:
        """Cosine similarities [m, n]."""
        return Scores(self.image, self.text)

    def caption_image(self, split: Split) -> np.ndarray:
        """int32 [n], the row in `image` of each caption's image."""
        row = np.zeros(len(split.table.image_ids), np.int32)
        row[self.images] = np.arange(len(self.images))
        return row[split.table.caption_image[self.captions]]

    def relevance(self, split: Split) -> np.ndarray | None:
        """bool [n, m], whether a caption is true of an image; None where the split does not know."""
        return None if split.relevance is None else split.relevance[np.ix_(self.captions, self.images)]


class Evaluator:
    """Compiles the two encoders once and evaluates any number of splits and models.

    Nothing depends on which rows share a batch: a ResNet's norms use their running statistics.
    """

    def __init__(self, model: DualEncoder, mesh: Mesh, config: Any):
        self._config = config
        self._encoder = Encoder(model, mesh, config.eval.batch_size)

    def __call__(self, variables: Params, split: Split) -> dict[str, float]:
        """`metrics` of the embeddings of these variables."""
        return metrics(self.embed(variables, split), split)

    def embed(self, variables: Params, split: Split) -> EmbeddedSplit:
        """Every image and caption once; unreadable images (`data.on_bad_image='skip'`) go with their captions."""
        numbers, images = [], []
        for here, pixels in image_batches(
            split.images,
            Pixels(self._encoder.image_size),
            batch_size=self._encoder.batch_size,
            workers=self._config.data.workers,
            on_bad_image=self._config.data.on_bad_image,
        ):
            numbers.append(here)
            images.append(self._encoder.images(variables, pixels)[0][: len(here)])
        readable = np.concatenate(numbers)
        captions = np.flatnonzero(np.isin(split.table.caption_image, readable))
        texts, _ = self._encoder.texts(variables, split.tokens[captions])
        return EmbeddedSplit(readable, captions, np.concatenate(images), texts)


def metrics(embedded: EmbeddedSplit, split: Split) -> dict[str, float]:
    """Recall on annotated pairs; where the split knows its exact relevance, mAP@R, R-Precision, R@1 too.

    Images that could not be read are counted.
    """
    result = recall(embedded.scores, embedded.caption_image(split))
    if (relevance := embedded.relevance(split)) is not None:
        result |= relevance_metrics(embedded.scores, relevance)
    missing = len(split.table.image_ids) - len(embedded.images)
    return result | ({"images_skipped": float(missing)} if missing else {})

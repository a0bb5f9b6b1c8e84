"""Image-text retrieval on one split: encode every image and caption once, score all pairs, count.

The cross-modal heads are used for both modalities (reference evaluation.py:27-40).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cusa_jax import embedding
from cusa_jax.data.prefetch import way_out
from cusa_jax.data.splits import Split
from cusa_jax.encoder import Encoder
from cusa_jax.evaluation import bootstrap
from cusa_jax.evaluation.recall import recall, recall_result
from cusa_jax.evaluation.relevance import relevance_metrics
from cusa_jax.evaluation.scores import Scores
from cusa_jax.models.student import Student, Variables


@dataclasses.dataclass(frozen=True)
class ScoredSplit:
    """The scores [m, n] of m readable images and of their n captions, which are known by their numbers in the split.

    images: int32 [m]. captions: int64 [n].
    """

    images: np.ndarray
    captions: np.ndarray
    scores: Scores

    def caption_image(self, split: Split) -> np.ndarray:
        """int32 [n], the row of each caption's image among the m."""
        row = np.zeros(len(split.table.image_ids), np.int32)
        row[self.images] = np.arange(len(self.images))
        return row[split.table.caption_image[self.captions]]

    def relevance(self, split: Split) -> np.ndarray | None:
        """bool [n, m], whether a caption is true of an image; None where the split does not know."""
        return None if split.relevance is None else split.relevance[np.ix_(self.captions, self.images)]


class Evaluator:
    """Compiles a student's two sides once and evaluates any number of splits and variables.

    Nothing depends on which rows share a batch: a ResNet's norms use their running statistics.
    """

    def __init__(self, student: Student, mesh: Mesh, config: Any):
        self._config = config
        self._encoder = Encoder(student, mesh, config.eval.batch_size)

    def __call__(self, variables: Variables, split: Split) -> dict[str, float]:
        """`metrics` of the scores under these variables."""
        return metrics(self.score(variables, split), split)

    def score(self, variables: Variables, split: Split) -> ScoredSplit:
        """Every image and caption once; unreadable images (`data.on_bad_image='skip'`) go with their captions."""
        with way_out():
            readable, images = embedding.encode_images(
                self._encoder,
                variables,
                split.images,
                workers=self._config.data.workers,
                on_bad_image=self._config.data.on_bad_image,
                label="evaluating",
            )
        captions = np.flatnonzero(np.isin(split.table.caption_image, readable))
        texts = embedding.encode_texts(self._encoder, variables, split.tokens[captions], label="evaluating")
        return ScoredSplit(readable, captions, embedding.scores(self._encoder, variables, images, texts))


def metrics(scored: ScoredSplit, split: Split) -> dict[str, float]:
    """Recall on annotated pairs; where the split knows its exact relevance, mAP@R, R-Precision, R@1 too.

    Images that could not be read are counted.
    """
    result = recall(scored.scores, scored.caption_image(split))
    if (relevance := scored.relevance(split)) is not None:
        result |= relevance_metrics(scored.scores, relevance)
    missing = len(split.table.image_ids) - len(scored.images)
    return result | ({"images_skipped": float(missing)} if missing else {})


def intervals(scored: ScoredSplit, split: Split) -> dict[str, tuple[float, float]]:
    """{metric: (low, high)}, the 95 % intervals of the recalls among `metrics`, by images drawn again."""
    result = recall_result(scored.scores, scored.caption_image(split))
    kept = {key: statistic for key, statistic in result.statistics.items() if not key.endswith("_rank")}
    drawn = bootstrap.intervals(dataclasses.replace(result, statistics=kept))
    return {key: (interval.low, interval.high) for key, interval in drawn.items()}

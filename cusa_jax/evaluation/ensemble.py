"""Several models as one, by the mean of their scores: SGRAF is SGR and SAF, trained apart (Diao et al., AAAI 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cusa_jax.data.classes import Classes
from cusa_jax.data.labelled_images import LabelledImages
from cusa_jax.data.splits import CaptionedImages
from cusa_jax.errors import InputError
from cusa_jax.evaluation.scores import Blocks, Matrix, Scores
from cusa_jax.evaluation.sources import Captioned, Classified, EmbeddingSource, Labelled

# By the presets of its two models.
_ARCHITECTURES = {frozenset({"sgr", "saf"}): "sgraf", frozenset({"sgr_coco", "saf_coco"}): "sgraf_coco"}


def mean_scores(parts: Sequence[Scores]) -> Scores:
    """The mean of scores of the same images and captions, computed in blocks where any part is.

    Raises InputError where they are of others.
    """
    if len({part.shape for part in parts}) > 1:
        shapes = " and ".join(str(list(part.shape)) for part in parts)
        raise InputError(
            f"scores of {shapes} images and captions cannot be averaged: evaluate all on the same data"
        )
    if all(isinstance(part, Matrix) for part in parts):
        total = np.zeros(parts[0].shape, np.float32)
        for part in parts:
            total += part.rows("i2t", np.arange(len(total)))
        return Matrix(total / len(parts))

    def block(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        everything = np.arange(len(images))
        return np.mean([part.take(images, captions).rows("i2t", everything) for part in parts], axis=0)

    return Blocks(parts[0].shape, block)


class Ensemble:
    """A source whose scores of pairs are the mean of others'. It has no embeddings."""

    def __init__(self, parts: Sequence[EmbeddingSource]):
        self._parts = parts
        self.name = " + ".join(part.name for part in parts)
        self.needs_data = any(part.needs_data for part in parts)
        presets = frozenset(part.architecture or "" for part in parts)
        self.architecture = _ARCHITECTURES.get(presets) if len(parts) == 2 else None

    def captioned(self, name: str, split: CaptionedImages | None) -> Captioned:
        captioned = [part.captioned(name, split) for part in self._parts]
        for part, one in zip(self._parts[1:], captioned[1:], strict=True):
            self._check_same(name, captioned[0], one, part.name)
        return dataclasses.replace(
            captioned[0],
            scores=mean_scores([part.scores for part in captioned]),
            uni_image=None,
            uni_text=None,
            cross_head=f"mean of {len(captioned)} scores",
        )

    def _check_same(self, name: str, one: Captioned, other: Captioned, whose: str) -> None:
        """Raises InputError where row m or column n are not of the same image or caption; ids may be absent."""
        pairs = {
            "image_ids": (one.image_ids or None, other.image_ids or None),
            "caption_ids": (one.caption_ids, other.caption_ids),
            "caption_image": (one.caption_image, other.caption_image),
        }
        for key, (ours, theirs) in pairs.items():
            if ours is not None and theirs is not None and not np.array_equal(ours, theirs):
                raise InputError(
                    f"{whose}: {name}/{key} differs from that of {self._parts[0].name}: scores of other images and "
                    "captions, or in another order, cannot be averaged"
                )

    def classified(self, name: str, classes: Classes | None) -> Classified:
        classified = [part.classified(name, classes) for part in self._parts]
        first = classified[0]
        if any(not np.array_equal(one.labels, first.labels) for one in classified):
            raise InputError(f"{self.name}: {name}/labels differ: evaluate all on the same images")
        scores = mean_scores([one.scores for one in classified])
        return Classified(scores, first.labels, f"mean of {len(classified)} scores")

    def labelled(self, name: str, images: LabelledImages | None, part: str = "") -> Labelled:
        raise InputError(f"{self.name}: an ensemble has scores of pairs alone, and no embeddings of images")

    def sentences(self, texts: list[str]) -> tuple[np.ndarray, str]:
        raise InputError(f"{self.name}: an ensemble has scores of pairs alone, and no embeddings of texts")

"""Recall@K on annotated image-caption pairs, the protocol of Flickr30K and COCO retrieval.

Same numbers as `itm_eval` of the CUSA reference (evaluation.py:58-118) on scores without ties, where its
order is that of an unstable sort. Here items with equal scores rank by their number, lower first, and the
figures say how far ties could move them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from cusa_jax.errors import InputError
from cusa_jax.evaluation.figures import Figures, Statistic, average, mean, median, total, within
from cusa_jax.evaluation.ranking import Positives, Ranking, rank

KS = (1, 5, 10)
_KEYS = {"i2t": "txt", "t2i": "img"}  # ours -> the reference's log: what is found


@dataclasses.dataclass(frozen=True)
class Scores:
    """How well M images and N captions fit: embeddings, whose inner products are never all held, or a matrix.

    images: float32 [M, D]; the scores [M, N] themselves where there are no embeddings. texts: [N, D], or None.
    """

    images: np.ndarray
    texts: np.ndarray | None = None

    @classmethod
    def of_matrix(cls, matrix: ArrayLike) -> Scores:
        """Scores of any model. Raises InputError where they are no matrix, or not finite."""
        matrix = np.asarray(matrix)
        if matrix.ndim != 2:
            raise InputError(f"scores {matrix.shape} do not fit: they should be [n_images, n_captions]")
        return cls(_finite(matrix, "scores"))

    @classmethod
    def of_embeddings(cls, image: ArrayLike, text: ArrayLike) -> Scores:
        """Cosine similarities. Raises InputError for widths that differ, zero rows and what is not finite."""
        images, texts = normalised(image, "image embeddings"), normalised(text, "text embeddings")
        if images.shape[1] != texts.shape[1]:
            raise InputError(
                f"image embeddings {images.shape} and text embeddings {texts.shape} differ in width"
            )
        return cls(images, texts)

    @property
    def shape(self) -> tuple[int, int]:
        """(M, N)."""
        return len(self.images), self.images.shape[1] if self.texts is None else len(self.texts)

    def take(self, images: np.ndarray, captions: np.ndarray) -> Scores:
        """Of some images and captions only, by number."""
        if self.texts is None:
            return Scores(self.images[np.ix_(images, captions)])
        return Scores(self.images[images], self.texts[captions])

    def image_to_text(self, positives: Positives, *, depth: int = 0, label: str = "") -> Ranking:
        """Images look for captions; see `ranking.rank`."""
        return rank(self.images, self.texts, positives, depth=depth, label=label)

    def text_to_image(self, positives: Positives, *, depth: int = 0, label: str = "") -> Ranking:
        """Captions look for images; see `ranking.rank`."""
        if self.texts is None:
            return rank(self.images.T, None, positives, depth=depth, label=label)
        return rank(self.texts, self.images, positives, depth=depth, label=label)


def recall(scores: ArrayLike | Scores, caption_image: ArrayLike) -> dict[str, float]:
    """Recall@1, 5, 10 both ways, in percent, under the names of the reference's log.

    scores: float [n_images, n_captions], finite; or embeddings.
    caption_image: int [n_captions], the image of each caption; an image may have any number of captions.

    Returns `txt_r1`, `txt_r5`, `txt_r10` (an image finds one of its captions), `img_r1`, `img_r5`,
    `img_r10` (a caption finds its image), the means `txt_r_mean`, `img_r_mean` and `r_mean`, and `rsum`,
    the sum of the six recalls.
    Raises InputError where shapes do not fit, a score is not finite or an image has no caption.
    """
    ranks = dict(zip(_KEYS.values(), ranks_both_ways(scores, caption_image), strict=True))
    result: dict[str, float] = {}
    for prefix, ranking in ranks.items():
        at_k = {f"{prefix}_r{k}": 100.0 * float(np.mean(ranking.rank < k)) for k in KS}
        result |= at_k | {f"{prefix}_r_mean": sum(at_k.values()) / len(KS)}
    result["r_mean"] = (result["txt_r_mean"] + result["img_r_mean"]) / 2
    result["rsum"] = 2 * len(KS) * result["r_mean"]
    return result


def ranks_both_ways(
    scores: ArrayLike | Scores, caption_image: ArrayLike, *, label: str = ""
) -> tuple[Ranking, Ranking]:
    """The rank of each image's best caption, and of each caption's image; arguments and errors as `recall`."""
    scores = scores if isinstance(scores, Scores) else Scores.of_matrix(scores)
    group = _checked(scores, np.asarray(caption_image))
    n_images, n_captions = scores.shape
    return (
        scores.image_to_text(Positives.of_groups(group, n_images), label=label and f"{label} i2t"),
        scores.text_to_image(
            Positives(np.arange(n_captions + 1), group.astype(np.int32)), label=label and f"{label} t2i"
        ),
    )


def recall_figures(scores: ArrayLike | Scores, caption_image: ArrayLike, *, label: str = "") -> Figures:
    """R@1, 5, 10, mean and median rank (1 is first) both ways, r_mean and RSUM; units are images.

    Names: `i2t_r1` … `t2i_r10`, `i2t_mean_rank`, `i2t_median_rank`, …, `r_mean`, `rsum`. Arguments and errors as
    `recall`. Where ties exist a note gives the bounds of the recalls that they move.
    """
    group = np.asarray(caption_image)
    rankings = dict(zip(_KEYS, ranks_both_ways(scores, group, label=label), strict=True))
    units = len(rankings["i2t"].queries)
    unit = {"i2t": np.arange(units), "t2i": group}
    statistics: dict[str, Statistic] = {}
    for way, ranking in rankings.items():
        for k in KS:
            statistics[f"{way}_r{k}"] = mean(ranking.rank < k, unit[way], units=units, scale=100)
        statistics[f"{way}_mean_rank"] = mean(ranking.rank + 1, unit[way], units=units)
        statistics[f"{way}_median_rank"] = median(ranking.rank + 1, unit[way])
    return Figures("image", (units,), _with_sums(statistics), notes=_tie_notes(rankings))


def fold_figures(scores: Scores, caption_image: np.ndarray, *, fold: int = 1000, label: str = "") -> Figures:
    """COCO 1K: `recall_figures` of consecutive folds of images, averaged (Karpathy & Fei-Fei, CVPR 2015).

    Images must come in Karpathy's order, which defines the folds. Raises InputError where they do not fill folds.
    """
    n_images = scores.shape[0]
    if n_images % fold or not n_images:
        raise InputError(
            f"{n_images} images do not split into folds of {fold}: the split is not COCO's 5,000"
        )
    parts = []
    for start in range(0, n_images, fold):
        captions = np.flatnonzero((caption_image >= start) & (caption_image < start + fold))
        part = scores.take(np.arange(start, start + fold), captions)
        parts.append(recall_figures(part, caption_image[captions] - start, label=label))
    statistics = {
        name: average(
            [within(part.statistics[name], slice(n * fold, (n + 1) * fold)) for n, part in enumerate(parts)]
        )
        for name in parts[0].statistics
    }
    notes = tuple(f"fold {n + 1}: {note}" for n, part in enumerate(parts) for note in part.notes)
    return Figures("image", (fold,) * len(parts), statistics, notes=notes)


def normalised(features: ArrayLike, what: str) -> np.ndarray:
    """float32 [n, D] of length 1. Raises InputError for another shape, a zero row or what is not finite."""
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not len(features):
        raise InputError(f"{what} {features.shape} should be [rows, width], with at least one row")
    length = np.linalg.norm(_finite(features, what), axis=1, keepdims=True)
    if not length.all():
        raise InputError(f"row {int(np.argmin(length))} of the {what} is all zeros: it has no direction")
    return features / length


def _with_sums(statistics: dict[str, Statistic]) -> dict[str, Statistic]:
    six = [statistics[f"{way}_r{k}"] for way in _KEYS for k in KS]
    return statistics | {"r_mean": average(six), "rsum": total(six)}


def _tie_notes(rankings: dict[str, Ranking]) -> tuple[str, ...]:
    notes = []
    for way, ranking in rankings.items():
        if (ranking.worst > ranking.best).any():
            bounds = (
                f"R@{k} {100 * np.mean(ranking.worst < k):.2f}–{100 * np.mean(ranking.best < k):.2f}"
                for k in KS
            )
            notes.append(f"{way}: equal scores, ranked by item number; by how they fall, {', '.join(bounds)}")
    return tuple(notes)


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError(f"{what} hold NaN or infinity: the model they come from is broken")
    return values


def _checked(scores: Scores, caption_image: np.ndarray) -> np.ndarray:
    n_images, n_captions = scores.shape
    if caption_image.shape != (n_captions,):
        raise InputError(
            f"scores {scores.shape} and caption_image {caption_image.shape} do not fit: "
            "they should be [n_images, n_captions] and [n_captions]"
        )
    if not np.array_equal(np.unique(caption_image), np.arange(n_images)):
        raise InputError(
            f"caption_image should name each of the {n_images} images at least once and no other"
        )
    return caption_image

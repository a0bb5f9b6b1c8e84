"""Recall@K on annotated image-caption pairs, the protocol of Flickr30K and COCO retrieval.

Same numbers as `itm_eval` of the CUSA reference (evaluation.py:58-118) on scores without ties, where its
order is that of an unstable sort. Here items with equal scores rank by their number, lower first, and the
results say how far ties could move them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from cusa_jax.errors import InputError
from cusa_jax.evaluation import coco
from cusa_jax.evaluation.metrics import RECALLS
from cusa_jax.evaluation.ranking import Positives, Ranking
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.scores import Scores, as_scores
from cusa_jax.evaluation.statistics import Statistic, average, mean, median, percent, total, within
from cusa_jax.evaluation.suite import Dataset, Evaluation, Suite

KS = (1, 5, 10)


def recall(scores: ArrayLike | Scores, caption_image: ArrayLike) -> dict[str, float]:
    """Recall@1, 5, 10 both ways, in percent.

    scores: float [n_images, n_captions], finite; or scores of any kind.
    caption_image: int [n_captions], the image of each caption; an image may have any number of captions.

    Returns `i2t_r1`, `i2t_r5`, `i2t_r10` (an image finds one of its captions), `t2i_r1`, `t2i_r5`,
    `t2i_r10` (a caption finds its image), the means `i2t_r_mean`, `t2i_r_mean` and `r_mean`, and `rsum`,
    the sum of the six recalls.
    Raises InputError where shapes do not fit, a score is not finite or an image has no caption.
    """
    result: dict[str, float] = {}
    for way, ranking in ranks_both_ways(scores, caption_image).items():
        at_k = {f"{way}_r{k}": 100.0 * float(np.mean(ranking.rank < k)) for k in KS}
        result |= at_k | {f"{way}_r_mean": sum(at_k.values()) / len(KS)}
    result["r_mean"] = (result["i2t_r_mean"] + result["t2i_r_mean"]) / 2
    result["rsum"] = 2 * len(KS) * result["r_mean"]
    return result


def ranks_both_ways(
    scores: ArrayLike | Scores, caption_image: ArrayLike, *, label: str = ""
) -> dict[str, Ranking]:
    """The ranks of each image's best caption ('i2t') and of each caption's image ('t2i'); arguments as `recall`."""
    scores = as_scores(scores)
    group = checked_groups(scores, caption_image)
    n_images, n_captions = scores.shape
    captions_of = Positives.of_groups(group, n_images)
    image_of = Positives(np.arange(n_captions + 1), group.astype(np.int32))
    return {
        "i2t": scores.rank("i2t", captions_of, label=label and f"{label} i2t"),
        "t2i": scores.rank("t2i", image_of, label=label and f"{label} t2i"),
    }


def recall_result(scores: ArrayLike | Scores, caption_image: ArrayLike, *, label: str = "") -> Result:
    """R@1, 5, 10, mean and median rank (1 is first) both ways, r_mean and RSUM; units are images.

    Keys: `i2t_r1` … `t2i_r10`, `i2t_mean_rank`, `i2t_median_rank`, …, `r_mean`, `rsum`. Arguments and errors as
    `recall`. Where ties exist a note gives the bounds of the recalls that they move.
    """
    group = np.asarray(caption_image)
    rankings = ranks_both_ways(scores, group, label=label)
    units = len(rankings["i2t"].queries)
    unit = {"i2t": np.arange(units), "t2i": group}
    statistics: dict[str, Statistic] = {}
    for way, ranking in rankings.items():
        for k in KS:
            statistics[f"{way}_r{k}"] = percent(ranking.rank < k, unit[way], units=units)
        statistics[f"{way}_mean_rank"] = mean(ranking.rank + 1, unit[way], units=units)
        statistics[f"{way}_median_rank"] = median(ranking.rank + 1, unit[way])
    six = [statistics[key] for key in RECALLS]
    statistics |= {"r_mean": average(six), "rsum": total(six)}
    return Result("image", (units,), statistics, notes=_tie_notes(rankings))


def fold_result(scores: Scores, caption_image: np.ndarray, *, fold: int = 1000, label: str = "") -> Result:
    """COCO 1K: `recall_result` of consecutive folds of images, averaged (Karpathy & Fei-Fei, CVPR 2015).

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
        parts.append(recall_result(part, caption_image[captions] - start, label=label))
    statistics = {
        name: average(
            [within(part.statistics[name], slice(n * fold, (n + 1) * fold)) for n, part in enumerate(parts)]
        )
        for name in parts[0].statistics
    }
    notes = tuple(f"fold {n + 1}: {note}" for n, part in enumerate(parts) for note in part.notes)
    return Result("image", (fold,) * len(parts), statistics, notes=notes)


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


def checked_groups(scores: Scores, caption_image: ArrayLike) -> np.ndarray:
    """`caption_image` as int [n_captions]. Raises InputError unless it names every image, and only images."""
    group, (n_images, n_captions) = np.asarray(caption_image), scores.shape
    if group.shape != (n_captions,):
        raise InputError(
            f"scores {scores.shape} and caption_image {group.shape} do not fit: "
            "they should be [n_images, n_captions] and [n_captions]"
        )
    if not np.array_equal(np.unique(group), np.arange(n_images)):
        raise InputError(
            f"caption_image should name each of the {n_images} images at least once and no other"
        )
    return group.astype(np.int64)


def recall_suite(name: str, title: str, data: Dataset, images: int | None = None) -> Suite:
    """Recall on the test split of any captions. images: as `Suite.images`."""

    def run(evaluation: Evaluation) -> Result:
        captioned = evaluation.captioned(data)
        result = recall_result(captioned.scores, captioned.caption_image, label=name)
        return dataclasses.replace(result, head=captioned.cross_head)

    return Suite(name, title, (data,), run, images=images)


def _coco1k(evaluation: Evaluation) -> Result:
    """Folds in Karpathy's order: by COCO's ids where the captions have them, else in the order of the file."""
    captioned = evaluation.captioned(coco.COCO)
    order = np.arange(captioned.scores.shape[0])
    notes: tuple[str, ...] = ("folds follow the order of the file",)
    if captioned.caption_ids is not None and captioned.image_ids:
        gallery = coco.gallery(captioned.image_ids, captioned.caption_ids)
        if len(gallery.images) == len(order):
            order, notes = gallery.images, ()
    place = np.argsort(order)[captioned.caption_image]
    scores = captioned.scores.take(order, np.arange(len(place)))
    result = fold_result(scores, place, label="coco1k")
    return dataclasses.replace(result, head=captioned.cross_head, notes=(*notes, *result.notes))


FLICKR30K = recall_suite(
    "flickr30k",
    "Flickr30K",
    Dataset(
        "flickr30k",
        ("flickr30k",),
        "it holds Karpathy's dataset_flickr30k.json and the images of flickr30k-images/",
    ),
    images=1000,
)
COCO5K = recall_suite("coco5k", "COCO 5K", coco.COCO, images=5000)
COCO1K = Suite("coco1k", "COCO 1K, mean of five folds", (coco.COCO,), _coco1k)

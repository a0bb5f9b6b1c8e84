"""Zero-shot classification: which class's sentences fit an image best (Radford et al., ICML 2021, section 3.1).

A class is the mean of the embeddings of its sentences, each of length 1, scaled to length 1 again: the prompt
ensemble of section 3.1.4. A model without embeddings scores every sentence, and a class has their mean. Of classes
with equal scores the lower number is first.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cusa_jax.data.classes import Classes, read_classes
from cusa_jax.errors import InputError
from cusa_jax.evaluation.metrics import Metric
from cusa_jax.evaluation.ranking import Positives
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.scores import Scores
from cusa_jax.evaluation.statistics import Share, Statistic, percent
from cusa_jax.evaluation.suite import Dataset, Evaluation, Suite


def zero_shot_result(scores: Scores, labels: np.ndarray, *, label: str = "") -> Result:
    """`top1`, `top5` and `mean_per_class` (the mean over classes of their top-1) in percent; units are images.

    scores: [M, C]. labels: int [M], of 0 … C-1. top5 is left out where there are no more than five classes.
    Raises InputError where they do not fit.
    """
    images, classes = scores.shape
    labels = np.asarray(labels)
    if labels.shape != (images,) or not images or labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"labels {labels.shape} should name one of the {classes} classes for each of {images} images"
        )
    ranking = scores.rank("i2t", Positives(np.arange(images + 1), labels.astype(np.int32)), label=label)
    found = ranking.rank < 1
    statistics: dict[str, Statistic] = {"top1": percent(found)}
    if classes > 5:
        statistics["top5"] = percent(ranking.rank < 5)
    statistics["mean_per_class"] = _mean_per_class(found, labels)
    present = len(np.unique(labels))
    notes = [
        f"{present} classes"
        if present == classes
        else f"{classes} classes, of {present} of which there are images"
    ]
    if (ranking.worst > ranking.best).any():
        bounds = [100 * np.mean(bound < 1) for bound in (ranking.worst, ranking.best)]
        notes.append(
            f"equal scores, ranked by class number; by how they fall, top-1 is {bounds[0]:.2f}–{bounds[1]:.2f}"
        )
    return Result("image", (images,), statistics, notes=tuple(notes))


def _mean_per_class(found: np.ndarray, labels: np.ndarray) -> Share:
    """100 x the mean over the classes that a resample has images of."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) > 0])

    def statistic(weights: np.ndarray) -> np.ndarray:
        weights = weights[:, order]
        images = np.add.reduceat(weights, starts, axis=1)
        right = np.add.reduceat(weights * found[order], starts, axis=1)
        share = np.divide(right, images, out=np.zeros_like(images), where=images > 0)
        return 100 * share.sum(1) / (images > 0).sum(1)

    return Share(statistic, 100.0, len(labels))


def zero_shot_suite(name: str, title: str, data: Dataset) -> Suite:
    """Zero-shot classification of the images by class (`data.classes`) that lie at `data`."""

    def run(evaluation: Evaluation) -> Result:
        source = evaluation.source
        classes: Classes | None = None
        if source.needs_data:
            classes = dataclasses.replace(read_classes(evaluation.folder(data)), own=data.own)
        classified = source.classified(data.name, classes)
        result = zero_shot_result(classified.scores, classified.labels, label=name)
        prompts = f"{len(classes.templates)} templates, such as '{classes.templates[0]}'" if classes else ""
        notes = (*result.notes, *filter(None, [prompts]))
        return dataclasses.replace(result, head=classified.head, notes=notes)

    metrics = (
        Metric("top1", "top-1"),
        Metric("top5", "top-5"),
        Metric("mean_per_class", "top-1, mean per class"),
    )
    return Suite(name, title, (data,), run, metrics=metrics)


ZERO_SHOT = zero_shot_suite(
    "zeroshot",
    "Zero-shot classification",
    Dataset("zeroshot", ("zeroshot",), "it holds a folder of images for each class, or labels.csv"),
)

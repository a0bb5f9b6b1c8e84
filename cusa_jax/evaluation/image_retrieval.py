"""Image retrieval by class: leave-one-out on CUB, SOP and iNaturalist, query against gallery on In-Shop.

The published number is rank-1, the share of queries whose nearest other image has their class, on L2-normalised
features (reference evaluation_img.py:109-170). Every query counts, also one that is alone in its class and cannot
be right. R@5 and R@10 follow the same rule; mAP@R and R-Precision (Musgrave et al., ECCV 2020) are means over the
queries that have a right answer.

The self-match is excluded: a query is taken out of its own gallery. The reference takes the second of the two nearest
instead (evaluation_img.py:133-134), so that with an exact duplicate the query may find itself, counted as right;
where that changes rank-1, a note gives the reference's number, with equal scores in order of image number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from cusa_jax.data.labelled_images import LabelledImages, read_cub, read_inat, read_inshop, read_sop
from cusa_jax.errors import InputError
from cusa_jax.evaluation.metrics import Metric
from cusa_jax.evaluation.ranking import Positives, Ranking, rank
from cusa_jax.evaluation.recall import KS
from cusa_jax.evaluation.relevance import per_query
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.scores import normalised
from cusa_jax.evaluation.statistics import Statistic, percent
from cusa_jax.evaluation.suite import Dataset, Evaluation, Suite


def leave_one_out(features: ArrayLike, labels: ArrayLike, *, label: str = "") -> Result:
    """Every image looks for another of its class. features: float [n, D]; labels: int [n]. Units are images.

    Keys: `rank1`, `r5`, `r10`, `map_at_r`, `rprecision`, in percent. Raises InputError where shapes do not fit,
    features are broken or no class has two images.
    """
    features, labels = _checked(features, labels, "images")
    itself = np.arange(len(labels))
    positives = _same_class(labels, labels, excluded=itself)
    ranking = rank(features, features, positives, excluded=itself, depth=positives.most, label=label)
    result = _result(ranking, len(labels))
    if len({row.tobytes() for row in features}) == len(features):
        return result
    reference = _second_nearest(features, labels)
    if math.isclose(reference, result.values()["rank1"]):
        return result
    note = f"rank-1 is {reference:.2f} where a query may find itself through an exact duplicate, as in the reference"
    return dataclasses.replace(result, notes=(*result.notes, note))


def query_gallery(
    query: ArrayLike,
    query_labels: ArrayLike,
    gallery: ArrayLike,
    gallery_labels: ArrayLike,
    *,
    label: str = "",
) -> Result:
    """Every query looks for a gallery image of its class; keys, units (queries) and errors as `leave_one_out`."""
    query, query_labels = _checked(query, query_labels, "query images")
    gallery, gallery_labels = _checked(gallery, gallery_labels, "gallery images")
    if query.shape[1] != gallery.shape[1]:
        raise InputError(f"query features {query.shape} and gallery features {gallery.shape} differ in width")
    positives = _same_class(query_labels, gallery_labels)
    ranking = rank(query, gallery, positives, depth=positives.most, label=label)
    return _result(ranking, len(query))


def _result(ranking: Ranking, queries: int) -> Result:
    place = np.full(queries, np.iinfo(np.int32).max)
    place[ranking.queries] = ranking.rank
    statistics: dict[str, Statistic] = {"rank1" if k == 1 else f"r{k}": percent(place < k) for k in KS}
    values = per_query(ranking)
    for name in ("map_at_r", "rprecision"):
        statistics[name] = percent(values[name], ranking.queries, units=queries)
    notes = []
    if alone := queries - len(ranking.queries):
        notes.append(
            f"{alone} queries have no image of their class to find: wrong at rank-1, left out of mAP@R"
        )
    if (ranking.worst > ranking.best).any():
        bounds = [100 * np.count_nonzero(bound < 1) / queries for bound in (ranking.worst, ranking.best)]
        notes.append(
            f"equal scores, ranked by image number; by how they fall, rank-1 is {bounds[0]:.2f}–{bounds[1]:.2f}"
        )
    return Result("image", (queries,), statistics, notes=tuple(notes))


def _same_class(
    query_labels: np.ndarray, labels: np.ndarray, excluded: np.ndarray | None = None
) -> Positives:
    """The items with each query's label, without the item `excluded` [Q] for it."""
    order = np.argsort(labels, kind="stable").astype(np.int32)
    first = np.searchsorted(labels[order], query_labels, side="left")
    last = np.searchsorted(labels[order], query_labels, side="right")
    counts = last - first
    starts = np.r_[0, np.cumsum(counts)]
    query = np.repeat(np.arange(len(query_labels)), counts)
    items = order[np.arange(starts[-1]) - starts[query] + first[query]]
    if excluded is not None:
        kept = items != excluded[query]
        items, starts = (
            items[kept],
            np.r_[0, np.cumsum(np.bincount(query[kept], minlength=len(query_labels)))],
        )
    return Positives(starts, items)


def _second_nearest(features: np.ndarray, labels: np.ndarray) -> float:
    """The reference's rank-1, in percent: is the second nearest of all images, self-match included, of the class?"""
    ranking = rank(features, features, _same_class(labels, labels), depth=2)
    return 100 * float(ranking.hits[:, 1].mean())


def _checked(features: ArrayLike, labels: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray]:
    features, labels = normalised(features, f"features of the {what}"), np.asarray(labels)
    if labels.shape != features.shape[:1]:
        raise InputError(f"features {features.shape} and labels {labels.shape} of the {what} do not fit")
    return features, labels


_METRICS = (
    Metric("rank1", "rank-1"),
    *(Metric(f"r{k}", f"R@{k}") for k in KS[1:]),
    Metric("rprecision", "R-Precision"),
)


def _leave_one_out_suite(
    name: str, title: str, data: Dataset, read: Callable[[Path], LabelledImages], images: int
) -> Suite:
    def run(evaluation: Evaluation) -> Result:
        table = read(evaluation.folder(data)) if evaluation.source.needs_data else None
        labelled = evaluation.source.labelled(name, table)
        result = leave_one_out(labelled.features, labelled.labels, label=name)
        return dataclasses.replace(result, head=labelled.head)

    return Suite(name, title, (data,), run, metrics=_METRICS, images=images)


def _inshop(evaluation: Evaluation) -> Result:
    source = evaluation.source
    tables = read_inshop(evaluation.folder(INSHOP.data[0])) if source.needs_data else (None, None)
    query, gallery = (
        source.labelled("inshop", table, part)
        for part, table in zip(("query", "gallery"), tables, strict=True)
    )
    result = query_gallery(query.features, query.labels, gallery.features, gallery.labels, label="inshop")
    return dataclasses.replace(result, head=query.head)


CUB = _leave_one_out_suite(
    "cub",
    "CUB-200-2011",
    Dataset("cub", ("cub",), "it holds CUB_200_2011/images/ (Caltech-UCSD Birds-200-2011)"),
    read_cub,
    images=5924,
)
SOP = _leave_one_out_suite(
    "sop",
    "Stanford Online Products",
    Dataset("sop", ("sop",), "it holds Stanford_Online_Products/ with Ebay_test.txt"),
    read_sop,
    images=60502,
)
INAT = _leave_one_out_suite(
    "inat",
    "iNaturalist 2018",
    Dataset(
        "inat",
        ("inat", "inaturalist"),
        "it holds Inat_dataset_splits/Inaturalist_test_set1.txt and train_val2018/ (iNaturalist 2018)",
    ),
    read_inat,
    images=136093,
)
# Of In-Shop the images that ask are counted.
INSHOP = Suite(
    "inshop",
    "In-Shop Clothes",
    (
        Dataset(
            "inshop", ("inshop",), "it holds Eval/list_eval_partition.txt and Img/ (DeepFashion, In-Shop)"
        ),
    ),
    _inshop,
    metrics=_METRICS,
    images=14218,
)

"""COCO captions with their other right answers: ECCV Caption and CxC retrieval, from the score matrix.

ECCV Caption (Chun et al., ECCV 2022): mAP@R, R-Precision and R@1 on positives that people and machines verified.
CxC (Parekh et al., EACL 2021): R@1, 5, 10 with additional positives. Ground truth and test captions (the first
five of each of Karpathy's 5,000 test images) come from the `eccv-caption` package, whose `Metrics` gives the same
numbers from ranked lists. A gallery that holds only some of the images is evaluated on what is there: R counts the
positives present, and queries with none are left out and counted.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cusa_jax.evaluation.coco import COCO, Gallery, gallery, ground_truth, places
from cusa_jax.evaluation.ranking import Positives, Ranking
from cusa_jax.evaluation.recall import KS
from cusa_jax.evaluation.relevance import per_query
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.scores import Scores, Way
from cusa_jax.evaluation.statistics import Statistic, average, percent
from cusa_jax.evaluation.suite import Evaluation, Suite

# No query has more positives: at most 48 captions, or 19 images.
_DEEPEST = 50


def eccv_result(scores: Scores, present: Gallery, *, label: str = "") -> Result:
    """`i2t_map_at_r`, `i2t_rprecision`, `i2t_r1`, the same for t2i, and `map_at_r`, the mean of both; in percent.

    scores: of all the user's images and captions; `present` says which of them count. Units are images.
    """
    rankings, left_out = _rankings(scores, present, "eccv", depth=_DEEPEST, label=label)
    unit = _image_of_query(present)
    unseen = _never_shown("eccv", present)
    measures = {"map_at_r": "map_at_r", "rprecision": "rprecision", "r1": "exact_r1"}
    statistics: dict[str, Statistic] = {}
    for way, ranking in rankings.items():
        values = per_query(ranking, ranking.positives + unseen[way][ranking.queries])
        for measure, name in measures.items():
            statistics[f"{way}_{measure}"] = percent(
                values[name], unit[way][ranking.queries], units=len(present.images)
            )
    statistics["map_at_r"] = average([statistics[f"{way}_map_at_r"] for way in rankings])
    return Result("image", (len(present.images),), statistics, notes=(*present.notes, *left_out))


def recall_result(scores: Scores, present: Gallery, kind: str = "cxc", *, label: str = "") -> Result:
    """`i2t_r1` … `t2i_r10` with the positives of 'cxc', or of 'original' COCO; arguments as `eccv_result`."""
    rankings, left_out = _rankings(scores, present, kind, label=label)
    unit = _image_of_query(present)
    statistics: dict[str, Statistic] = {
        f"{way}_r{k}": percent(ranking.rank < k, unit[way][ranking.queries], units=len(present.images))
        for way, ranking in rankings.items()
        for k in KS
    }
    return Result("image", (len(present.images),), statistics, notes=(*present.notes, *left_out))


def _rankings(
    scores: Scores, present: Gallery, kind: str, *, depth: int = 0, label: str = ""
) -> tuple[dict[str, Ranking], tuple[str, ...]]:
    """The rankings both ways, and what to say of queries whose positives are all absent."""
    part = scores.take(present.images, present.captions)
    ids: dict[Way, tuple[np.ndarray, np.ndarray]] = {
        "i2t": (present.image_ids, present.caption_ids),
        "t2i": (present.caption_ids, present.image_ids),
    }
    rankings, notes = {}, []
    for way, (queries, items) in ids.items():
        asked, answers = ground_truth().pairs(kind, way)
        query, item = places(queries, asked), places(items, answers)
        here = (query >= 0) & (item >= 0)
        positives = Positives.of_pairs(query[here], item[here], len(queries))
        rankings[str(way)] = part.rank(way, positives, depth=depth, label=label and f"{label} {way}")
        absent = len(np.unique(query[query >= 0])) - np.count_nonzero(positives.counts)
        if absent:
            notes.append(f"{way}: {absent} queries are left out, all their positives are absent")
    return rankings, tuple(notes)


def _never_shown(kind: str, present: Gallery) -> dict[str, np.ndarray]:
    """Each query's positives that are in nobody's gallery: two captions beyond the first five of their image.

    The package counts them into R, so they are counted for a complete gallery; a partial one is judged by what is
    there.
    """
    truth = ground_truth()
    unseen = {}
    for way, queries, shown in (
        ("i2t", present.image_ids, truth.caption_ids),
        ("t2i", present.caption_ids, truth.image_ids),
    ):
        asked, answers = truth.pairs(kind, way)
        query = places(queries, asked)
        never = (query >= 0) & ~np.isin(answers, shown) & present.complete
        unseen[way] = np.bincount(query[never], minlength=len(queries))
    return unseen


def _image_of_query(present: Gallery) -> dict[str, np.ndarray]:
    """The unit of each query: images are units, captions belong to theirs, to the first where theirs is absent."""
    captions, images = ground_truth().pairs("original", "t2i")
    image = places(present.image_ids, images[places(captions, present.caption_ids)])
    return {"i2t": np.arange(len(present.images)), "t2i": np.maximum(image, 0)}


def _run(evaluation: Evaluation) -> Result:
    captioned = evaluation.captioned(COCO)
    present = gallery(captioned.image_ids, captioned.caption_ids)
    result = eccv_result(captioned.scores, present, label="eccv")
    return dataclasses.replace(result, head=captioned.cross_head)


ECCV = Suite("eccv", "ECCV Caption", (COCO,), _run, images=5000)

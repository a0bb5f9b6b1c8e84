"""Crisscrossed Captions: COCO's captions and images with graded similarity, and retrieval with more positives.

Parekh et al., EACL 2021. People rated pairs of captions (sts), of images (sis) and of a caption with an image
(sits) from 0 to 5; files `sts_test.csv`, `sis_test.csv`, `sits_test.csv` with the two items, `agg_score` and
`sampling_method` (https://github.com/google-research-datasets/Crisscrossed-Captions).

The paper's statistic is a bootstrap, because few items are paired with many: 1,000 times half of the queries are
drawn, for each of them one of its rated partners, and Spearman's correlation of these pairs is computed; the mean
and the standard deviation of the 1,000 are reported. An item that stands first in a rated pair is its query here.
Spearman's correlation over all rated pairs, which can be ten points away, comes under a name of its own.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.evaluation import eccv
from cusa_jax.evaluation.coco import COCO, coco_id, gallery, places
from cusa_jax.evaluation.metrics import Metric
from cusa_jax.evaluation.result import Result, finite, side_by_side
from cusa_jax.evaluation.scores import InnerProducts
from cusa_jax.evaluation.statistics import spearman
from cusa_jax.evaluation.suite import Dataset, Evaluation, Suite

COLUMNS = {"sts": ("caption1", "caption2"), "sis": ("image1", "image2"), "sits": ("caption", "image")}
NAMES = {"sts": "text_text", "sis": "image_image", "sits": "text_image"}
DRAWS = 1000
SEED = 0


@dataclasses.dataclass(frozen=True)
class Ratings:
    """first, second: int64 [n], COCO caption or image ids. rating: float64 [n]."""

    first: np.ndarray
    second: np.ndarray
    rating: np.ndarray


@dataclasses.dataclass(frozen=True)
class Side:
    """The rows of one kind of items. ids: int [N], of COCO. features: float [N, D], of length 1."""

    ids: np.ndarray
    features: np.ndarray


def read_ratings(folder: str | Path, kind: str, split: str = "test") -> Ratings:
    """`{kind}_{split}.csv` of a folder. Raises InputError where it is missing or not of that form."""
    path = Path(folder) / f"{kind}_{split}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        pairs = np.array([[_identity(row[column]) for column in COLUMNS[kind]] for row in rows], np.int64)
        rating = np.array([float(row["agg_score"]) for row in rows])
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); it is in the Crisscrossed-Captions repository"
        ) from error
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise InputError(
            f"{path}: not a table of {', '.join(COLUMNS[kind])} and agg_score ({error!r})"
        ) from error
    if not rows or not all(map(math.isfinite, rating)):
        raise InputError(f"{path}: holds no ratings, or one that is not a number")
    return Ratings(pairs[:, 0], pairs[:, 1], rating)


def graded_result(rated: Mapping[str, Ratings], sides: Mapping[str, tuple[Side, Side]]) -> Result:
    """Graded similarity of each kind whose items are there, in percent.

    rated, sides: by kind, 'sts', 'sis' or 'sits'; the sides are what its first and its second items are among.
    Keys: `text_text`, `image_image`, `text_image` by the paper's bootstrap, and over all rated pairs with
    `all_pairs_` before them. Raises InputError where none of a kind's items is there.
    """
    parts, drawn, notes = {}, {}, []
    for kind, ratings in rated.items():
        first, second = sides[kind]
        a, b = places(first.ids, ratings.first), places(second.ids, ratings.second)
        present = (a >= 0) & (b >= 0)
        absent = len(present) - np.count_nonzero(present)
        if absent == len(present):
            raise InputError(f"none of the rated {NAMES[kind]} pairs of CxC is among the images and captions")
        similarity = np.einsum("nd,nd->n", first.features[a[present]], second.features[b[present]])
        rating, query = ratings.rating[present], ratings.first[present]
        draws = bootstrapped(similarity, rating, query)
        if absent:
            notes.append(f"{NAMES[kind]}: {absent} of {len(present)} rated pairs are absent")
        notes.append(
            f"spearman {NAMES[kind]}: mean of {DRAWS:,} draws of half of the queries with one rated partner each "
            f"(Parekh et al., 2021), whose standard deviation is {finite(draws).std():.2f}"
        )
        drawn[NAMES[kind]] = draws
        parts[f"all_pairs_{NAMES[kind]}"] = Result(
            "pair", (len(similarity),), {"": spearman(similarity, rating)}
        )
    return dataclasses.replace(side_by_side("pair", parts), drawn=drawn, notes=tuple(notes))


def bootstrapped(similarity: np.ndarray, rating: np.ndarray, query: np.ndarray) -> np.ndarray:
    """100 x Spearman's correlation of `DRAWS` draws, float64 [DRAWS]: half of the queries, a pair of each.

    similarity, rating: float [n] of rated pairs. query: int [n], the item that each pair is about.
    What is drawn follows from `query` and `SEED` alone: all models see the same draws.
    """
    generator = np.random.default_rng(SEED)
    order = np.argsort(query, kind="stable")
    _, starts, counts = np.unique(query[order], return_index=True, return_counts=True)
    half = max(1, len(starts) // 2)
    draws = np.empty(DRAWS)
    for n in range(DRAWS):
        queries = generator.permutation(len(starts))[:half]
        pairs = order[starts[queries] + generator.integers(0, counts[queries])]
        draws[n] = spearman(similarity[pairs], rating[pairs])(np.ones((1, half)))[0]
    return draws


def _identity(text: str) -> int:
    """'COCO_val2014:sentid:648388' -> 648388, 'COCO_val2014_000000431431.jpg' -> 431431."""
    digits = re.search(r"([0-9]+)(\.jpg)?$", text)
    if not digits:
        raise ValueError(f"{text!r} names no caption or image")
    return int(digits[1])


def _run(evaluation: Evaluation) -> Result:
    """Recalls with CxC's positives; graded similarity too, where there are ratings and embeddings."""
    captioned = evaluation.captioned(COCO)
    present = gallery(captioned.image_ids, captioned.caption_ids)
    retrieval = dataclasses.replace(
        eccv.recall_result(captioned.scores, present, label="cxc"), head=captioned.cross_head
    )
    try:
        folder = evaluation.folder(RATINGS)
        rated = {kind: read_ratings(folder, kind) for kind in COLUMNS}
        if captioned.uni_image is None or captioned.uni_text is None:
            raise InputError("it compares embeddings, of which there are none")
        if not isinstance(captioned.scores, InnerProducts):
            raise InputError("it compares embeddings, and here are scores")
    except InputError as error:
        return dataclasses.replace(retrieval, notes=(*retrieval.notes, f"no graded similarity: {error}"))
    captions = np.asarray(captioned.caption_ids)
    images = np.array([coco_id(name) for name in captioned.image_ids])
    text, image = Side(captions, captioned.uni_text), Side(images, captioned.uni_image)
    cross = Side(captions, captioned.scores.texts), Side(images, captioned.scores.images)
    graded = graded_result(rated, {"sts": (text, text), "sis": (image, image), "sits": cross})
    return side_by_side(
        "image or pair",
        {"": retrieval, "spearman": graded},
        head=f"{captioned.cross_head}; within a modality {captioned.uni_head}",
    )


_KINDS = ("text_text", "image_image", "text_image")
RATINGS = Dataset(
    "cxc", ("cxc",), "it holds sts_test.csv, sis_test.csv and sits_test.csv of Crisscrossed-Captions"
)
CXC = Suite(
    "cxc",
    "Crisscrossed Captions",
    (COCO, RATINGS),
    _run,
    metrics=tuple(
        Metric(f"spearman_{prefix}{kind}", f"Spearman{words}, {kind.replace('_', '–')}")
        for prefix, words in (("", ""), ("all_pairs_", " over all rated pairs"))
        for kind in _KINDS
    ),
)

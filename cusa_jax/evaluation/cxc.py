"""Graded similarity on COCO itself: Spearman's correlation with Crisscrossed Captions' ratings.

Parekh et al., EACL 2021. People rated pairs of captions (sts), of images (sis) and of a caption with an image
(sits) from 0 to 5; files `sts_test.csv`, `sis_test.csv`, `sits_test.csv` with the two items, `agg_score` and
`sampling_method` (https://github.com/google-research-datasets/Crisscrossed-Captions). All rated pairs count.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from pathlib import Path

import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.evaluation.figures import Figures, side_by_side, spearman

COLUMNS = {"sts": ("caption1", "caption2"), "sis": ("image1", "image2"), "sits": ("caption", "image")}
NAMES = {"sts": "text_text", "sis": "image_image", "sits": "text_image"}


@dataclasses.dataclass(frozen=True)
class Ratings:
    """first, second: int64 [n], COCO caption or image ids. rating: float64 [n]."""

    first: np.ndarray
    second: np.ndarray
    rating: np.ndarray


def read_ratings(folder: str | Path, kind: str, split: str = "test") -> Ratings:
    """`{kind}_{split}.csv` of a folder. Raises InputError where it is missing or not of that form."""
    path = Path(folder) / f"{kind}_{split}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        pairs = [[_identity(row[column]) for column in COLUMNS[kind]] for row in rows]
        rating = np.array([float(row["agg_score"]) for row in rows])
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); it is in the Crisscrossed-Captions repository"
        ) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: not a table of {', '.join(COLUMNS[kind])} and agg_score ({error!r})"
        ) from error
    if not rows or not all(map(math.isfinite, rating)):
        raise InputError(f"{path}: holds no ratings, or one that is not a number")
    first, second = np.array(pairs, np.int64).T
    return Ratings(first, second, rating)


def graded_figures(
    ratings: dict[str, Ratings],
    caption_ids: np.ndarray,
    image_ids: np.ndarray,
    text: np.ndarray,
    image: np.ndarray,
    cross_text: np.ndarray,
    cross_image: np.ndarray,
) -> Figures:
    """`text_text`, `image_image`, `text_image`, each 100 x Spearman over the pairs whose items are there.

    caption_ids: int [N], image_ids: int [M], COCO ids of the rows. text [N, D], image [M, D]: features of length 1
    to compare within a modality. cross_text [N, E], cross_image [M, E]: between them, likewise.
    """
    sides = {
        "sts": ((caption_ids, text), (caption_ids, text)),
        "sis": ((image_ids, image), (image_ids, image)),
        "sits": ((caption_ids, cross_text), (image_ids, cross_image)),
    }
    parts = {}
    for kind, rated in ratings.items():
        (first_ids, first), (second_ids, second) = sides[kind]
        a, b = _rows(first_ids, rated.first), _rows(second_ids, rated.second)
        here = (a >= 0) & (b >= 0)
        missing = len(here) - np.count_nonzero(here)
        if missing == len(here):
            raise InputError(f"none of the rated {NAMES[kind]} pairs of CxC is among the images and captions")
        similarity = np.einsum("nd,nd->n", first[a[here]], second[b[here]])
        notes = (f"{NAMES[kind]}: {missing} of {len(here)} rated pairs are absent",) if missing else ()
        parts[NAMES[kind]] = Figures(
            "pair", (len(similarity),), {"": spearman(similarity, rated.rating[here])}, notes=notes
        )
    return side_by_side("pair", parts)


def _identity(text: str) -> int:
    """'COCO_val2014:sentid:648388' -> 648388, 'COCO_val2014_000000431431.jpg' -> 431431."""
    digits = re.search(r"(\d+)(\.jpg)?$", text)
    if not digits:
        raise ValueError(f"{text!r} names no caption or image")
    return int(digits[1])


def _rows(have: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The row of each wanted id, -1 where it is not there."""
    order = np.argsort(have, kind="stable")
    place = np.minimum(np.searchsorted(have[order], wanted), len(have) - 1)
    return np.where(have[order][place] == wanted, order[place], -1)

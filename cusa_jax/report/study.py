"""The paper's case study: queries with what the model finds, and what of it is right."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from cusa_jax.data.splits import Split
from cusa_jax.evaluation import eccv
from cusa_jax.evaluation.retrieval import EmbeddedSplit
from cusa_jax.search.query import top_k

# 'unannotated': true of the query, but not annotated as its pair: a false negative of the data set.
# 'wrong': known to be untrue, which takes exact relevance. 'unknown': not annotated, and nobody has said whether it
# is true: ECCV Caption looked at some queries of COCO's test split, and at what five models proposed for them.
Mark = Literal["annotated", "unannotated", "wrong", "unknown"]
Source = Literal["exact", "ECCV Caption", ""]
TOP = 5


@dataclasses.dataclass(frozen=True)
class Answer:
    """item: number of the image or caption in the split. score: cosine similarity."""

    item: int
    score: float
    mark: Mark


@dataclasses.dataclass(frozen=True)
class Query:
    """item: number of the image or caption that asks. answers: the first five.

    expected: the best of its annotated answers. rank: at which place that stands, 1 being first.
    """

    item: int
    answers: list[Answer]
    expected: Answer
    rank: int


@dataclasses.dataclass(frozen=True)
class Study:
    """Some queries of each way, and how many of all answers among the first five bear each mark.

    source: who says which pairs are true beside the annotated ones; '' where nobody does.
    """

    text_to_image: list[Query]
    image_to_text: list[Query]
    marks: dict[str, int]
    source: Source


def study(embedded: EmbeddedSplit, split: Split, queries: int = 6) -> Study:
    """Takes its queries evenly from the split, whatever the model makes of them."""
    group = embedded.caption_image(split)
    annotated = group[:, None] == np.arange(len(embedded.images))
    true, source = _truth(embedded, split, group)
    ways = {
        "text_to_image": (embedded.text, embedded.image, annotated, true),
        "image_to_text": (embedded.image, embedded.text, annotated.T, true.T),
    }
    numbers = {"text_to_image": (embedded.captions, embedded.images)}
    numbers["image_to_text"] = numbers["text_to_image"][::-1]
    shown: dict[str, list[Query]] = {way: [] for way in ways}
    marks: dict[str, int] = {}
    for way, (asking, found, right, known) in ways.items():
        scores, items = top_k(asking, found, TOP)
        told = _marks(items, right, known, other="wrong" if source == "exact" else "unknown")
        for mark, count in zip(*np.unique(told, return_counts=True), strict=True):
            marks[str(mark)] = marks.get(str(mark), 0) + int(count)
        asked, answers = numbers[way]
        for q in np.linspace(0, len(asking) - 1, min(queries, len(asking)), dtype=int):
            first = [
                Answer(int(answers[item]), float(score), mark)
                for item, score, mark in zip(items[q], scores[q], told[q].tolist(), strict=True)
            ]
            expected, rank = _expected(found @ asking[q], right[q], first, answers)
            shown[way].append(Query(int(asked[q]), first, expected, rank))
    return Study(**shown, marks=marks, source=source)


def _truth(embedded: EmbeddedSplit, split: Split, group: np.ndarray) -> tuple[np.ndarray, Source]:
    """bool [n captions, m images], which pairs are known to be true beside the annotated ones, and from whom."""
    if (relevance := embedded.relevance(split)) is not None:
        return relevance, "exact"
    if split.table.caption_ids is not None:
        names = split.table.image_names
        images = [names[image] for image in embedded.images]
        known = eccv.known_true(images, split.table.caption_ids[embedded.captions], group)
        if known.any():
            return known, "ECCV Caption"
    return np.zeros((len(embedded.captions), len(embedded.images)), bool), ""


def _marks(items: np.ndarray, right: np.ndarray, true: np.ndarray, other: Mark) -> np.ndarray:
    """The Mark of each item found [Q, k], where right and true are bool [Q, N]; of neither, `other`."""
    hit, known = (np.take_along_axis(which, items, axis=1) for which in (right, true))
    return np.where(hit, "annotated", np.where(known, "unannotated", other))


def _expected(
    scores: np.ndarray, right: np.ndarray, first: list[Answer], numbers: np.ndarray
) -> tuple[Answer, int]:
    """The best right item of scores [N] and its place; among the first, what stands there, for rounding differs."""
    for place, answer in enumerate(first, start=1):
        if answer.mark == "annotated":
            return answer, place
    item = int(np.argmax(np.where(right, scores, -np.inf)))
    place = max(len(first), int((scores > scores[item]).sum())) + 1
    return Answer(int(numbers[item]), float(scores[item]), "annotated"), place

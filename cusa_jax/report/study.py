"""The paper's case study: queries with what the model finds, and what of it is right."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from cusa_jax.data.splits import Split
from cusa_jax.evaluation import coco
from cusa_jax.evaluation.retrieval import ScoredSplit
from cusa_jax.evaluation.scores import Scores, Way

# 'unannotated': true of the query, but not annotated as its pair: a false negative of the data set.
# 'wrong': known to be untrue, which takes exact relevance. 'unknown': not annotated, and nobody has said whether it
# is true: ECCV Caption looked at some queries of COCO's test split, and at what five models proposed for them.
Mark = Literal["annotated", "unannotated", "wrong", "unknown"]
Judge = Literal["exact", "ECCV Caption", ""]
TOP = 5


@dataclasses.dataclass(frozen=True)
class Answer:
    """item: number of the image or caption in the split. score: as the model gives it."""

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

    judge: who says which pairs are true beside the annotated ones; '' where nobody does.
    """

    text_to_image: list[Query]
    image_to_text: list[Query]
    marks: dict[str, int]
    judge: Judge


def study(scored: ScoredSplit, split: Split, queries: int = 6) -> Study:
    """Takes its queries evenly from the split, whatever the model makes of them."""
    group = scored.caption_image(split)
    annotated = group[:, None] == np.arange(len(scored.images))
    true, judge = _truth(scored, split, group)
    other: Mark = "wrong" if judge == "exact" else "unknown"
    text_to_image, marks = _one_way(
        scored.scores, "t2i", scored.captions, scored.images, annotated, true, other, queries
    )
    image_to_text, more = _one_way(
        scored.scores, "i2t", scored.images, scored.captions, annotated.T, true.T, other, queries
    )
    counts = {mark: marks.get(mark, 0) + more.get(mark, 0) for mark in marks | more}
    return Study(text_to_image, image_to_text, counts, judge)


def _one_way(
    scores: Scores,
    way: Way,
    query_numbers: np.ndarray,
    item_numbers: np.ndarray,
    annotated: np.ndarray,
    true: np.ndarray,
    other: Mark,
    queries: int,
) -> tuple[list[Query], dict[str, int]]:
    """Some queries of one way, and how often each mark stands among the first five of all. annotated, true: bool
    [queries, items]. other: the mark of what is neither."""
    best, items = scores.top(way, TOP)
    marks = _marks(items, annotated, true, other)
    shown = []
    for q in np.linspace(0, len(items) - 1, min(queries, len(items)), dtype=int):
        answers = [
            Answer(int(item_numbers[item]), float(score), mark)
            for item, score, mark in zip(items[q], best[q], marks[q].tolist(), strict=True)
        ]
        row = scores.rows(way, np.array([q]))[0]
        expected, rank = _expected(row, annotated[q], answers, item_numbers)
        shown.append(Query(int(query_numbers[q]), answers, expected, rank))
    names, counts = np.unique(marks, return_counts=True)
    return shown, dict(zip(names.tolist(), counts.tolist(), strict=True))


def _truth(scored: ScoredSplit, split: Split, group: np.ndarray) -> tuple[np.ndarray, Judge]:
    """bool [n captions, m images], which pairs are known to be true beside the annotated ones, and from whom."""
    if (relevance := scored.relevance(split)) is not None:
        return relevance, "exact"
    if split.table.caption_ids is not None:
        names = split.table.image_names
        images = [names[image] for image in scored.images]
        known = coco.known_true(images, split.table.caption_ids[scored.captions], group)
        if known.any():
            return known, "ECCV Caption"
    return np.zeros((len(scored.captions), len(scored.images)), bool), ""


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

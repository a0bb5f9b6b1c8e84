"""How well M images and N captions fit: three kinds of scores, ranked by one code.

`InnerProducts` of embeddings, whose matrix is never whole; a `Matrix` that somebody computed; and `Blocks` of a
model that must see an image and a caption together, computed when they are asked for. What ranks and counts takes
any of them and finds the same.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import numpy as np
from numpy.typing import ArrayLike

from cusa_jax.errors import InputError
from cusa_jax.evaluation.ranking import BLOCK_SCORES, Positives, Ranking, Rows, rank
from cusa_jax.top_k import top_k

Way = Literal["i2t", "t2i"]


class Scores(abc.ABC):
    """The scores [M, N] of M images and N captions, higher for what fits better."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(M, N)."""

    @abc.abstractmethod
    def take(self, images: np.ndarray, captions: np.ndarray) -> Scores:
        """The scores of some images and captions only, by number."""

    @abc.abstractmethod
    def sides(self, way: Way) -> tuple[Rows, np.ndarray | None]:
        """What `ranking.rank` takes: queries and items, or rows of scores and None."""

    def rank(self, way: Way, positives: Positives, *, depth: int = 0, label: str = "") -> Ranking:
        """Images look for captions ('i2t'), or captions for images ('t2i'); the rest as in `ranking.rank`."""
        queries, items = self.sides(way)
        return rank(queries, items, positives, depth=depth, label=label)

    def rows(self, way: Way, queries: np.ndarray) -> np.ndarray:
        """float32 [len(queries), items], the scores of some queries with every item."""
        rows, items = self.sides(way)
        chosen = np.asarray(rows[queries], np.float32)
        return chosen if items is None else chosen @ items.T

    def top(self, way: Way, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32, item numbers int32) [queries, k], the best first; equal scores by number, lower first."""
        queries, items = self.sides(way)
        if items is not None:
            return top_k(np.asarray(queries), items, k)
        count, width = queries.shape
        step = max(1, BLOCK_SCORES // width)
        best = [
            jax.lax.top_k(self.rows(way, np.arange(start, min(start + step, count))), min(k, width))
            for start in range(0, count, step)
        ]
        scores, numbers = (np.concatenate(parts) for parts in zip(*best, strict=True))
        return scores, numbers


@dataclasses.dataclass(frozen=True)
class InnerProducts(Scores):
    """images: float32 [M, D]. texts: float32 [N, D]."""

    images: np.ndarray
    texts: np.ndarray

    @classmethod
    def cosines(cls, image: ArrayLike, text: ArrayLike) -> InnerProducts:
        """Of embeddings of any length. Raises InputError for widths that differ, and as `normalised`."""
        images, texts = normalised(image, "image embeddings"), normalised(text, "text embeddings")
        if images.shape[1] != texts.shape[1]:
            raise InputError(
                f"image embeddings {images.shape} and text embeddings {texts.shape} differ in width"
            )
        return cls(images, texts)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.images), len(self.texts)

    def take(self, images: np.ndarray, captions: np.ndarray) -> InnerProducts:
        return InnerProducts(self.images[images], self.texts[captions])

    def sides(self, way: Way) -> tuple[np.ndarray, np.ndarray]:
        return (self.images, self.texts) if way == "i2t" else (self.texts, self.images)


@dataclasses.dataclass(frozen=True)
class Matrix(Scores):
    """values: float [M, N]. Raises InputError where they are no matrix of real numbers, or not finite."""

    values: np.ndarray

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype.kind not in "fiub":
            raise InputError(
                f"scores {self.values.dtype} {self.values.shape} do not fit: they should be numbers "
                "[n_images, n_captions]"
            )
        _check_finite(self.values, "scores")

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def take(self, images: np.ndarray, captions: np.ndarray) -> Matrix:
        if all(map(_is_all, (images, captions), self.shape)):
            return self
        return Matrix(self.values[np.ix_(images, captions)])

    def sides(self, way: Way) -> tuple[np.ndarray, None]:
        return (self.values if way == "i2t" else self.values.T), None


@dataclasses.dataclass(frozen=True)
class Blocks(Scores):
    """Scores that are computed when asked for.

    block: (image numbers int [m], caption numbers int [n]) -> float [m, n], m and n being at most `tile`.
    """

    size: tuple[int, int]
    block: Callable[[np.ndarray, np.ndarray], np.ndarray]
    tile: tuple[int, int] = (128, 128)

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    def take(self, images: np.ndarray, captions: np.ndarray) -> Blocks:
        def block(m: np.ndarray, n: np.ndarray) -> np.ndarray:
            return self.block(images[m], captions[n])

        return Blocks((len(images), len(captions)), block, self.tile)

    def sides(self, way: Way) -> tuple[Rows, None]:
        return _RowsOfBlocks(self, way), None

    def matrix(self) -> Matrix:
        """All scores at once, 4 bytes each: for those who would otherwise compute them twice."""
        return Matrix(self.rows("i2t", np.arange(self.size[0])))


@dataclasses.dataclass(frozen=True)
class _RowsOfBlocks:
    """The rows of `Blocks`, or of its transpose."""

    blocks: Blocks
    way: Way

    @property
    def shape(self) -> tuple[int, int]:
        return self.blocks.size if self.way == "i2t" else self.blocks.size[::-1]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        items = np.arange(self.shape[1])
        query_tile, item_tile = self.blocks.tile if self.way == "i2t" else self.blocks.tile[::-1]
        scores = np.empty((len(rows), len(items)), np.float32)
        for q in range(0, len(rows), query_tile):
            for i in range(0, len(items), item_tile):
                some, against = rows[q : q + query_tile], items[i : i + item_tile]
                scores[q : q + query_tile, i : i + item_tile] = (
                    self.blocks.block(some, against)
                    if self.way == "i2t"
                    else self.blocks.block(against, some).T
                )
        _check_finite(scores, "scores")
        return scores


def as_scores(scores: ArrayLike | Scores) -> Scores:
    """A matrix [n_images, n_captions], or scores already. Raises InputError as `Matrix`."""
    return scores if isinstance(scores, Scores) else Matrix(np.asarray(scores))


def normalised(features: ArrayLike, what: str) -> np.ndarray:
    """float32 [n, D] of length 1. Raises InputError for another shape, a zero row or what is no finite number."""
    features = np.asarray(features)
    if features.ndim != 2 or not len(features) or features.dtype.kind not in "fiub":
        raise InputError(
            f"{what} {features.dtype} {features.shape} should be numbers [rows, width], with at least one row"
        )
    # What overflows float32 is infinite, and refused.
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    _check_finite(features, what)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    if not length.all():
        raise InputError(f"row {int(np.argmin(length))} of the {what} is all zeros: it has no direction")
    return features / length


def _is_all(numbers: np.ndarray, count: int) -> bool:
    """Whether these are all `count` rows in their order, so that taking them would only copy."""
    return len(numbers) == count and np.array_equal(numbers, np.arange(count))


def _check_finite(values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        raise InputError(f"{what} hold NaN or infinity: the model they come from is broken")

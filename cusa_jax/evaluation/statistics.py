"""Statistics as functions of how often each unit counts, so that they can be bootstrapped exactly.

A unit is what was sampled: an image with its captions, a query image, a rated pair. With every weight 1 a
statistic is the official number; with the counts of a resample it is the number of that resample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

# Weights float64 [B, units] -> [B].
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Share:
    """A statistic that is `most` where every unit scores fully, and 0 where none scores at all.

    units: how many there are, of which it is known what one sample cannot show (`bootstrap.intervals`).
    """

    of: Statistic
    most: float
    units: int

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return self.of(weights)


def mean(values: np.ndarray, unit: np.ndarray | None = None, *, units: int = 0) -> Statistic:
    """The mean of `values` [n], each of which belongs to a unit [n]; by default each is a unit itself."""
    if unit is None:
        unit, units = np.arange(len(values)), len(values)
    totals = np.bincount(unit, values, units)
    counts = np.bincount(unit, minlength=units).astype(float)
    return lambda weights: _ratio(weights @ totals, weights @ counts)


def percent(values: np.ndarray, unit: np.ndarray | None = None, *, units: int = 0) -> Share:
    """100 x the `mean` of values from 0 to 1, such as hits."""
    share = mean(values, unit, units=units)
    scoring = len(values) if unit is None else len(np.unique(unit))
    return Share(lambda weights: 100 * share(weights), 100.0, scoring)


def median(values: np.ndarray, unit: np.ndarray) -> Statistic:
    """The median of `values` [n]; of an even number of them the mean of the middle two."""
    order = np.argsort(values, kind="stable")
    values, unit = np.asarray(values, float)[order], unit[order]

    def statistic(weights: np.ndarray) -> np.ndarray:
        up_to = np.cumsum(weights[:, unit], axis=1)
        last = up_to[:, -1] - 1
        low, high = (
            values[np.minimum((up_to <= middle[:, None]).sum(1), len(values) - 1)]
            for middle in (last // 2, (last + 1) // 2)
        )
        return (low + high) / 2

    return statistic


def spearman(x: np.ndarray, y: np.ndarray) -> Statistic:
    """100 x Spearman's rank correlation of pairs [n]; equal values share their mean rank, as in scipy."""
    rank_x, rank_y = _weighted_ranks(x), _weighted_ranks(y)
    return lambda weights: 100 * _correlation(rank_x(weights), rank_y(weights), weights)


def pearson(x: np.ndarray, y: np.ndarray) -> Statistic:
    """100 x Pearson's correlation of pairs [n]."""
    x, y = np.asarray(x, float)[None], np.asarray(y, float)[None]
    return lambda weights: 100 * _correlation(x, y, weights)


def kendall(x: np.ndarray, y: np.ndarray, unit: np.ndarray, variant: Literal["b", "c"]) -> Statistic:
    """100 x Kendall's τ_b or τ_c of pairs [n], as in scipy. unit: [n], 0 to U - 1, none of them without a pair.

    A resample's τ follows from how many pairs of pairs two units have that agree, disagree or tie.
    """
    order = np.argsort(unit, kind="stable")
    x, y, unit = (
        np.unique(values[order], return_inverse=True)[1].astype(np.int32) for values in (x, y, unit)
    )
    starts = np.searchsorted(unit, np.arange(unit[-1] + 1))
    agreeing, tied_x, tied_y = _pairs_of_units(x, y, starts)
    classes = [_classes_of_units(values, unit) for values in (x, y)]
    size = np.diff([*starts, len(unit)]).astype(float)

    def statistic(weights: np.ndarray) -> np.ndarray:
        def pairs(between: np.ndarray) -> np.ndarray:
            return ((weights @ between) * weights).sum(1)

        n = weights @ size
        if variant == "b":
            most = np.sqrt((n * n - pairs(tied_x)) * (n * n - pairs(tied_y)))
        else:
            fewest = np.min([(weights @ there > 0).sum(1) for there in classes], axis=0)
            most = n * n * (fewest - 1) / np.maximum(fewest, 1)
        return 100 * _ratio(pairs(agreeing), most)

    return statistic


def average(statistics: list[Statistic], shares: np.ndarray | None = None) -> Statistic:
    """The mean of several statistics, weighted by their `shares`."""
    return _combined(statistics, lambda values: np.average(values, axis=0, weights=shares))


def total(statistics: list[Statistic]) -> Statistic:
    """The sum of several statistics."""
    return _combined(statistics, lambda values: np.sum(values, axis=0))


def within(statistic: Statistic, units: slice) -> Statistic:
    """A statistic of some of the units, as one of all."""

    def part(weights: np.ndarray) -> np.ndarray:
        return statistic(weights[:, units])

    return dataclasses.replace(statistic, of=part) if isinstance(statistic, Share) else part


def _combined(statistics: list[Statistic], combine: Callable[[list[np.ndarray]], np.ndarray]) -> Statistic:
    """Of shares a share again, which is as sure as the one of the fewest units."""

    def combined(weights: np.ndarray) -> np.ndarray:
        return combine([part(weights) for part in statistics])

    parts = [part for part in statistics if isinstance(part, Share)]
    if len(parts) < len(statistics):
        return combined
    most = combine([np.array([part.most]) for part in parts])[0]
    return Share(combined, float(most), min(part.units for part in parts))


def _pairs_of_units(x: np.ndarray, y: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
    """For every two units, over the ordered pairs of their members: agreeing less disagreeing, and ties in x and in y.

    x, y: int32 [n], members of a unit in a row. starts: [U], where each unit's begin. Returns three float64 [U, U].
    """
    ends = [*starts[1:], len(x)]
    counts = [np.empty((len(starts), len(starts))) for _ in range(3)]
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        steps_x, steps_y = (np.sign(values[start:end, None] - values).astype(np.int8) for values in (x, y))
        for count, found in zip(counts, (steps_x * steps_y, steps_x == 0, steps_y == 0), strict=True):
            count[row] = np.add.reduceat(found.sum(0, dtype=np.int64), starts)
    return counts


def _classes_of_units(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """float32 [U, classes], how often each unit has each value."""
    counts = np.zeros((unit[-1] + 1, values.max() + 1), np.float32)
    np.add.at(counts, (unit, values), 1)
    return counts


def _weighted_ranks(values: np.ndarray) -> Statistic:
    """Weights [B, n] -> mid-ranks [B, n] in a sample where value i occurs weights[:, i] times."""
    distinct, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(distinct)))

    def ranks(weights: np.ndarray) -> np.ndarray:
        size = np.add.reduceat(weights[:, order], starts, axis=1)
        return (np.cumsum(size, axis=1) - (size - 1) / 2)[:, group]

    return ranks


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights.sum(1, keepdims=True)
    x = x - (weights * x).sum(1, keepdims=True) / total
    y = y - (weights * y).sum(1, keepdims=True) / total
    return _ratio((weights * x * y).sum(1), np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1)))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where a resample holds nothing to divide by."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)

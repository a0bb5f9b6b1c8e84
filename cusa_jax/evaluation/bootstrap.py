"""How sure a number is: percentile bootstrap intervals, and the paired bootstrap between two models.

Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16. Units are drawn with
replacement inside their stratum; all metrics of a suite, and both models of a comparison, see the same draws.
The numbers follow from `SEED`: the same results have the same interval everywhere. A metric whose protocol draws
by itself (`Result.drawn`) has the interval of its own draws.

Where no unit differs from another, drawing again shows nothing, and a share of 0 or 100 % would have no interval at
all. It has the exact one (Clopper & Pearson, Biometrika 1934): of n units of which each scored fully, the share in
the population is at least (0.05 / 2)^(1/n).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.evaluation.metrics import Metric, described
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.statistics import Share, Statistic

RESAMPLES = 1000
SEED = 0
# Of a 95 % interval.
_TAILS = (0.025, 0.975)
# Weights held at a time.
_CHUNK = 1 << 23


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval; low and high are NaN where no resample had a value."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference(Interval):
    """Second model minus first, on the same resamples."""

    lower_is_better: bool = False

    @property
    def verdict(self) -> str:
        """The second model is 'better' or 'worse' where the interval excludes zero; else 'no difference shown'."""
        if not (self.low > 0 or self.high < 0):
            return "no difference shown"
        return "better" if (self.low > 0) != self.lower_is_better else "worse"


def intervals(result: Result) -> dict[str, Interval]:
    """Every metric with its interval."""
    draws = dict(zip(result.statistics, resampled(result).T, strict=True)) | result.drawn
    return {
        key: Interval(value, *_bounds(value, draws[key], result.statistics.get(key)))
        for key, value in result.values().items()
    }


def differences(first: Result, second: Result, own: Sequence[Metric] = ()) -> dict[str, Difference]:
    """Second minus first for every metric that both have. own: metrics of their suite, beyond METRICS.

    Raises InputError where their units differ.
    """
    if first.strata != second.strata:
        raise InputError(
            f"the two have different {first.unit}s ({sum(first.strata)} and {sum(second.strata)}): "
            "a paired comparison needs the same ones"
        )
    shared = [key for key in first.statistics if key in second.statistics]
    differing = _resampled(
        first.strata,
        lambda weights: np.stack(
            [second.statistics[key](weights) - first.statistics[key](weights) for key in shared], axis=1
        ),
    )
    draws = dict(zip(shared, differing.T, strict=True))
    draws |= {key: second.drawn[key] - first.drawn[key] for key in first.drawn if key in second.drawn}
    before, after = first.values(), second.values()
    return {
        key: Difference(
            after[key] - before[key],
            *_bounds(after[key] - before[key], drawn, second.statistics.get(key), paired=True),
            lower_is_better=described(key, own).lower_is_better,
        )
        for key, drawn in draws.items()
    }


def resampled(result: Result) -> np.ndarray:
    """float64 [RESAMPLES, metrics]: `result.statistics` of every draw. The draws are the same for the same strata."""

    def values(weights: np.ndarray) -> np.ndarray:
        return np.stack([statistic(weights) for statistic in result.statistics.values()], axis=1)

    return _resampled(result.strata, values)


def _resampled(strata: tuple[int, ...], statistics: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([statistics(weights) for weights in _draws(strata)])


def _draws(strata: tuple[int, ...]) -> Iterator[np.ndarray]:
    """How often each unit is drawn, float64 [b, units] at a time, `RESAMPLES` rows in all."""
    generator = np.random.default_rng(SEED)
    rows = max(1, _CHUNK // sum(strata))
    for start in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - start)
        yield np.concatenate([_draw(generator, count, size) for size in strata], axis=1)


def _draw(generator: np.random.Generator, rows: int, size: int) -> np.ndarray:
    drawn = generator.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(float)


def _bounds(
    value: float, draws: np.ndarray, statistic: Statistic | None, *, paired: bool = False
) -> tuple[float, float]:
    """The interval's ends; exact ones for a share that is the same in every unit.

    paired: it is a difference of two shares, from -most to most.
    """
    low, high = quantiles(draws)
    if not isinstance(statistic, Share) or low != high:
        return low, high
    most, least = statistic.most, -statistic.most if paired else 0.0
    sure = _TAILS[0] ** (1 / statistic.units)
    return sure * value + (1 - sure) * least, sure * value + (1 - sure) * most


def quantiles(values: np.ndarray) -> tuple[float, float]:
    """The bounds of a 95 % interval; NaN where no draw has a value."""
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, _TAILS) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)

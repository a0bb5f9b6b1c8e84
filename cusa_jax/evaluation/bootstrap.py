"""How sure a figure is: percentile bootstrap intervals, and the paired bootstrap between two models.

Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16. Units are drawn with
replacement inside their stratum; all figures of a suite, and both models of a comparison, see the same draws.
The numbers follow from `SEED`: the same figures have the same interval everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.evaluation.figures import Figures

RESAMPLES = 1000
SEED = 0
_TAILS = (0.025, 0.975)  # of a 95 % interval
_CHUNK = 1 << 23  # weights held at a time


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; low and high are NaN where no resample had a value."""

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


def intervals(figures: Figures) -> dict[str, Interval]:
    """Every figure with its interval."""
    drawn = _resampled(figures.strata, lambda weights: _all(figures, weights))
    return {
        name: Interval(value, *_quantiles(drawn[:, n]))
        for n, (name, value) in enumerate(figures.values().items())
    }


def differences(first: Figures, second: Figures) -> dict[str, Difference]:
    """Second minus first for every figure that both have. Raises InputError where their units differ."""
    if first.strata != second.strata:
        raise InputError(
            f"the two have different {first.unit}s ({sum(first.strata)} and {sum(second.strata)}): "
            "a paired comparison needs the same ones"
        )
    shared = [name for name in first.statistics if name in second.statistics]
    drawn = _resampled(
        first.strata,
        lambda weights: np.stack(
            [second.statistics[name](weights) - first.statistics[name](weights) for name in shared], axis=1
        ),
    )
    before, after = first.values(), second.values()
    return {
        name: Difference(
            after[name] - before[name], *_quantiles(drawn[:, n]), lower_is_better=name.endswith("_rank")
        )
        for n, name in enumerate(shared)
    }


def _all(figures: Figures, weights: np.ndarray) -> np.ndarray:
    return np.stack([statistic(weights) for statistic in figures.statistics.values()], axis=1)


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


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, _TAILS) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)

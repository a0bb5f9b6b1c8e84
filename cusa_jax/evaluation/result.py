"""What a suite found: the statistics of its metrics, over units that can be drawn again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cusa_jax.evaluation.statistics import Statistic, within


@dataclasses.dataclass(frozen=True)
class Result:
    """The metrics of one suite, by key.

    unit: what a unit is, for people. strata: how many units there are in each group that is resampled by itself.
    statistics: key -> statistic over all units, stratum after stratum.
    drawn: key -> float64 [draws], of a metric whose protocol is a resampling by itself: the official number is the
        mean of those that have a value. They are the same for every model.
    head: which features were compared. notes: what a reader must know: ties, partial galleries, left-out queries.
    """

    unit: str
    strata: tuple[int, ...]
    statistics: dict[str, Statistic]
    drawn: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    head: str = ""
    notes: tuple[str, ...] = ()

    def values(self) -> dict[str, float]:
        """The official numbers."""
        ones = np.ones((1, sum(self.strata)))
        means = {key: float(finite(draws).mean()) for key, draws in self.drawn.items()}
        return {key: float(statistic(ones)[0]) for key, statistic in self.statistics.items()} | means


def finite(draws: np.ndarray) -> np.ndarray:
    """The draws that have a value; NaN alone where none has."""
    kept = draws[np.isfinite(draws)]
    return kept if len(kept) else np.array([np.nan])


def side_by_side(unit: str, parts: Mapping[str, Result], **rest: Any) -> Result:
    """Results on separate units as one, keys prefixed with the part's."""
    statistics: dict[str, Statistic] = {}
    drawn: dict[str, np.ndarray] = {}
    strata: tuple[int, ...] = ()
    for prefix, part in parts.items():
        units = slice(sum(strata), sum(strata) + sum(part.strata))
        statistics |= {
            _joined(prefix, key): within(statistic, units) for key, statistic in part.statistics.items()
        }
        drawn |= {_joined(prefix, key): draws for key, draws in part.drawn.items()}
        strata += part.strata
    notes = tuple(note for part in parts.values() for note in part.notes)
    return Result(unit, strata, statistics, drawn, notes=notes, **rest)


def _joined(prefix: str, key: str) -> str:
    return "_".join(filter(None, (prefix, key)))

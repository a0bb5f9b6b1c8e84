"""Differences between cells, paired by seed and by image: intervals, p-values, the seeds they would need."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from cusa_jax.controls.cells import BASELINE, Cell
from cusa_jax.evaluation.bootstrap import quantiles, resampled
from cusa_jax.evaluation.result import Result

# Of the t test that `seeds_needed` plans.
_LEVEL, _POWER, _MOST_SEEDS = 0.05, 0.8, 1000


@dataclasses.dataclass(frozen=True)
class Measured:
    """The runs of one cell, one a seed, all of the same images."""

    runs: Sequence[Result]

    @property
    def metrics(self) -> list[str]:
        return list(self.runs[0].statistics)

    def values(self, metric: str) -> np.ndarray:
        """float64 [seeds]."""
        return np.array([values[metric] for values in self._values])

    def draws(self, metric: str) -> np.ndarray:
        """float64 [draws]: the mean over these seeds for each bootstrap sample of images, the same for every cell."""
        return self._draws[:, self.metrics.index(metric)]

    @functools.cached_property
    def _values(self) -> list[dict[str, float]]:
        return [run.values() for run in self.runs]

    @functools.cached_property
    def _draws(self) -> np.ndarray:
        return np.mean([resampled(run) for run in self.runs], axis=0)


# For each cell.
Table = Mapping[Cell, Measured]


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Second minus first in one metric over S seeds, and two 95 % intervals of the mean difference.

    by_seed: Student's t over the S differences, each of two runs with one seed: would other seeds show it?
    by_image: bootstrap over test images of the mean over these very seeds: would other images show it?
    p: of the t test; NaN for a single seed. seeds_needed: for which the same test would find a difference as large
    as the one seen, with as much spread, four times in five; None where a thousand would not do.
    """

    first: Cell
    second: Cell
    metric: str
    mean: float
    by_seed: tuple[float, float]
    by_image: tuple[float, float]
    p: float
    seeds_needed: int | None

    def __str__(self) -> str:
        return f"{self.second} − {self.first}"


def contrasts(table: Table) -> list[Contrast]:
    """Every cell against its baseline, and teachers that know against those that do not, metric by metric.

    A recipe that has no teachers in any cell, such as one that freezes a part, is compared with the plain baseline.
    """
    metrics = next(iter(table.values())).metrics
    return [_contrast(table, pair, metric) for metric in metrics for pair in _pairs(table)]


def holm(p: Iterable[float]) -> np.ndarray:
    """p-values corrected for their number (Holm, 1979); NaN where one is."""
    given = np.array(list(p), float)
    order = np.argsort(given)
    left = np.isfinite(given).sum() - np.arange(len(given))
    corrected = np.minimum(1, np.maximum.accumulate(given[order] * left))
    result = np.empty_like(given)
    result[order] = corrected
    return result


def seeds_needed(differences: np.ndarray) -> int | None:
    """The fewest for which a two-sided t test finds their mean, given their deviation, with a power of 0.8."""
    spread = differences.std(ddof=1)
    if spread == 0:
        return 2 if differences.mean() else None
    effect = abs(differences.mean()) / spread
    counts = np.arange(2, _MOST_SEEDS + 1)
    critical = stats.t.ppf(1 - _LEVEL / 2, counts - 1)
    power = stats.nct.sf(critical, counts - 1, effect * np.sqrt(counts))
    enough = np.flatnonzero(power >= _POWER)
    return int(counts[enough[0]]) if len(enough) else None


def _contrast(table: Table, pair: tuple[Cell, Cell], metric: str) -> Contrast:
    first, second = (table[cell] for cell in pair)
    by_seed = second.values(metric) - first.values(metric)
    middle, seeds = float(by_seed.mean()), len(by_seed)
    margin, p, needed = np.inf, np.nan, None
    if seeds > 1:
        margin = float(stats.t.ppf(0.975, seeds - 1) * by_seed.std(ddof=1) / np.sqrt(seeds))
        p = float(stats.ttest_1samp(by_seed, 0).pvalue) if by_seed.std() else float(middle == 0)
        needed = seeds_needed(by_seed)
    by_image = quantiles(second.draws(metric) - first.draws(metric))
    return Contrast(*pair, metric, middle, (middle - margin, middle + margin), by_image, p, needed)


def _pairs(table: Table) -> list[tuple[Cell, Cell]]:
    """(first, second)."""
    with_teachers = {cell.recipe for cell in table if cell.teachers}
    against_baseline = [(_baseline(cell, table), cell) for cell in table if cell.teachers]
    against_controls = [
        (dataclasses.replace(cell, teachers=control), cell)
        for cell in table
        if cell.teachers == "trained"
        for control in ("shuffled", "uniform")
    ]
    between_recipes = [
        (dataclasses.replace(cell, recipe=""), cell)
        for cell in table
        if cell.recipe and (_baseline(cell, table) == BASELINE or cell.recipe not in with_teachers)
    ]
    return [pair for pair in against_baseline + against_controls + between_recipes if pair[0] in table]


def _baseline(cell: Cell, table: Table) -> Cell:
    own = Cell(recipe=cell.recipe)
    return own if own in table else BASELINE

"""What an evaluation leaves: results.json, and the tables on the console."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cusa_jax.errors import InputError
from cusa_jax.evaluation.bootstrap import RESAMPLES, SEED, Difference, Interval, differences, intervals
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.suites import SUITES
from cusa_jax.jsonfile import read_json
from cusa_jax.workdir import RESULTS


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """One model in every suite. skipped: why others are missing. architecture: the preset with its sizes, else None.

    dtype: what was asked of its computation, of `weights.hub.DTYPES`; None of arrays.
    """

    model: str
    results: dict[str, Result]
    skipped: dict[str, str]
    architecture: str | None = None
    dtype: str | None = None


def record(evaluated: Evaluated) -> dict[str, Any]:
    """One model's results.json. Percent, but for ranks; suite and metric names are those of assets/published.json.

    {"model", "architecture", "dtype", "suites": {suite: {"head", "unit", "units", "notes", "metrics": {metric:
    {"value", "low", "high"}}}}, "skipped": {suite: why}, "bootstrap": {"level", "resamples", "seed"}}
    """
    return {
        "model": evaluated.model,
        "architecture": evaluated.architecture,
        "dtype": evaluated.dtype,
        "suites": {
            suite: {
                "head": result.head,
                "unit": result.unit,
                "units": sum(result.strata),
                "notes": list(result.notes),
                "metrics": {key: _json(interval) for key, interval in intervals(result).items()},
            }
            for suite, result in evaluated.results.items()
        },
        "skipped": evaluated.skipped,
        "bootstrap": {"level": 0.95, "resamples": RESAMPLES, "seed": SEED},
    }


def result_folders(out: Path, groups: Sequence[Sequence[str]]) -> list[Path]:
    """Where the results of each group of models belong: `out`, or with several groups a folder in it for each.

    Raises InputError where the results of other models are there: nothing is overwritten unseen.
    """
    # A run of controls.py is named after recipe and cell, with a dot between them.
    stems = [path.stem if path.is_file() else path.name for path in (Path(group[0]) for group in groups)]
    names = [stem if stems.count(stem) == 1 else f"{stem}-{n}" for n, stem in enumerate(stems, start=1)]
    folders = [out] if len(groups) == 1 else [out / name for name in names]
    for folder, models in zip(folders, groups, strict=True):
        if not (folder / RESULTS).is_file():
            continue
        found = read_json(folder / RESULTS)
        there = [one.get("model") for one in found.get("models", [found])]
        if there != list(models):
            raise InputError(
                f"{folder / RESULTS}: holds the results of {' and '.join(map(str, there))}; name another --out, or "
                "remove it"
            )
    return folders


def comparison(first: Evaluated, second: Evaluated) -> dict[str, Any]:
    """Second minus first in every suite that both were evaluated in, on the same images, pairs or queries.

    {"differences": {suite: {metric: {"value", "low", "high", "verdict"}}}, "not_compared": {suite: why}}
    """
    compared: dict[str, Any] = {"differences": {}, "not_compared": {}}
    for suite, result in first.results.items():
        if suite not in second.results:
            continue
        own = SUITES[suite].metrics if suite in SUITES else ()
        try:
            paired = differences(result, second.results[suite], own)
        except InputError as error:
            compared["not_compared"][suite] = str(error)
            continue
        compared["differences"][suite] = {
            key: {**_json(difference), "verdict": difference.verdict} for key, difference in paired.items()
        }
    return compared


def table(results: Mapping[str, Any]) -> str:
    """One model's results as text: a block a suite, a metric a line with its 95 % interval, then the notes."""
    lines = [f"{results['model']} (95 % intervals from {results['bootstrap']['resamples']} resamples)"]
    for suite, part in results["suites"].items():
        lines += ["", f"{suite}: {part['head']}, {part['units']} {part['unit']}s"]
        width = max(map(len, part["metrics"]))
        lines += [f"  {metric:<{width}}  {_text(value)}" for metric, value in part["metrics"].items()]
        lines += [f"  note: {note}" for note in part["notes"]]
    lines += ["", *(f"{suite}: skipped: {why}" for suite, why in results["skipped"].items())]
    return "\n".join(lines).rstrip()


def comparison_table(names: tuple[str, str], compared: Mapping[str, Any]) -> str:
    """A `comparison` as text: each difference, second minus first, with the verdict."""
    lines = [f"{names[1]} − {names[0]}, paired bootstrap, 95 % intervals"]
    for suite, metrics in compared["differences"].items():
        lines += ["", suite]
        width = max(map(len, metrics))
        lines += [
            f"  {metric:<{width}}  {_text(value, sign='+')}  {value['verdict']}"
            for metric, value in metrics.items()
        ]
    lines += ["", *(f"{suite}: not compared: {why}" for suite, why in compared["not_compared"].items())]
    return "\n".join(lines).rstrip()


def _json(interval: Interval | Difference) -> dict[str, float | None]:
    values = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _text(value: Mapping[str, Any], sign: str = "") -> str:
    middle, low, high = (
        "n/a" if value[key] is None else f"{value[key]:{sign}.2f}" for key in ("value", "low", "high")
    )
    return f"{middle:>8}  [{low:>7}, {high:>7}]"

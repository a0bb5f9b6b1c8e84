"""What the page of an evaluation shows: every suite's metrics, of one model or two, the paper's beside them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cusa_jax.evaluation.bootstrap import Interval
from cusa_jax.evaluation.metrics import described
from cusa_jax.evaluation.suite import Suite
from cusa_jax.evaluation.suites import SUITES
from cusa_jax.report import published
from cusa_jax.report.plots import Plot, whiskers


@dataclasses.dataclass(frozen=True)
class MetricRow:
    """One metric. values: of each model, {'value', 'low', 'high'} or None. difference: second minus first, with its
    'verdict', or None. paper: of each model and loss of the section, None where the paper has no such number.
    percent: whether it can be drawn beside the others.
    """

    metric: str
    label: str
    percent: bool
    values: list[Mapping[str, Any] | None]
    difference: Mapping[str, Any] | None
    paper: list[list[float | None]]


@dataclasses.dataclass(frozen=True)
class Section:
    """One suite. data: heads and number of images, a line. paper: model -> losses, the columns.

    rows: what to read first; more: the rest.
    """

    title: str
    data: list[str]
    notes: list[str]
    paper: dict[str, list[str]]
    rows: list[MetricRow]
    more: list[MetricRow]
    plot: Plot | None


def sections(models: Sequence[Mapping[str, Any]], compared: Mapping[str, Any]) -> list[Section]:
    """models: one or two of `record.record`. compared: `record.comparison` of two, {} of one."""
    differences, not_compared = compared.get("differences", {}), compared.get("not_compared", {})
    suites = dict.fromkeys(suite for model in models for suite in model["suites"])
    return [
        _section(suite, models, differences.get(suite, {}), not_compared.get(suite, "")) for suite in suites
    ]


def short_names(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """The last part of each model's path, where that tells them apart."""
    paths = [model["model"] for model in models]
    names = [Path(path).name or path for path in paths]
    return names if len(set(names)) == len(names) else paths


def _section(
    suite: str, models: Sequence[Mapping[str, Any]], differences: Mapping[str, Any], not_compared: str
) -> Section:
    """differences: metric -> second minus first. not_compared: why there are none, or ''."""
    known = SUITES[suite]
    parts = [model["suites"].get(suite) for model in models]
    done = [part for part in parts if part]
    names = short_names(models)
    same_data = known.images is None or all(part["units"] == known.images for part in done)
    data = [f"{part['head']}; {part['units']:,} {part['unit']}s." for part in done]
    if len(set(data)) > 1:
        data = [f"{name}: {line}" for name, line in zip(names, data, strict=True)]
    notes = list(dict.fromkeys(note for part in done for note in part["notes"]))
    if not_compared:
        notes.insert(0, f"not compared: {not_compared}")
    if not same_data:
        notes.insert(
            0, f"not the paper's data, which are {known.images:,} images: its figures are no comparison"
        )
    tables = _tables(suite, models) if same_data else {}
    rows = [
        _row(known, key, parts, differences, tables)
        for key in dict.fromkeys(key for part in done for key in part["metrics"])
    ]
    first = [row for row in rows if row.metric in (known.first or (row.metric,))]
    return Section(
        known.title,
        list(dict.fromkeys(data)),
        notes,
        {model: list(losses) for model, losses in tables.items()},
        first,
        [row for row in rows if row not in first],
        _plot(known.title, first, names, tables),
    )


def _row(
    suite: Suite,
    key: str,
    parts: Sequence[Mapping[str, Any] | None],
    differences: Mapping[str, Any],
    tables: Mapping[str, Any],
) -> MetricRow:
    metric = described(key, suite.metrics)
    return MetricRow(
        key,
        metric.title,
        metric.unit == "%",
        [part["metrics"].get(key) if part else None for part in parts],
        differences.get(key),
        [[figures.get(key) for figures in losses.values()] for losses in tables.values()],
    )


def _tables(suite: str, models: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """The paper's numbers of the models that ours are; of all its CLIPs where one of ours is none of them."""
    tables = published.by_loss(suite)
    names = [published.MODELS.get(model["architecture"]) for model in models]
    wanted = published.CLIPS.values() if None in names else names
    return {name: table for name, table in tables.items() if name in wanted}


def _plot(
    title: str, rows: Sequence[MetricRow], names: Sequence[str], tables: Mapping[str, Any]
) -> Plot | None:
    """Intervals of the percentages: of the differences where there are any, else of the values."""
    rows = [row for row in rows if row.percent]
    if any(row.difference for row in rows):
        drawn = {row.label: {"difference": _interval(row.difference)} for row in rows if row.difference}
        return whiskers(f"{title}: {names[1]} − {names[0]}", drawn, "percentage points", zero=True)
    drawn = {
        row.label: {name: _interval(value) for name, value in zip(names, row.values, strict=True) if value}
        for row in rows
    }
    for model, losses in tables.items():
        for row in rows:
            if row.metric in losses["CUSA"]:
                value = Interval(losses["CUSA"][row.metric], math.nan, math.nan)
                drawn[row.label][f"paper, {model}, CUSA"] = value
    return whiskers(f"{title}: figures and their 95 % intervals", drawn, "%") if rows else None


def _interval(value: Mapping[str, Any]) -> Interval:
    """As results.json has it, with null for what is no number."""
    return Interval(*(math.nan if value[key] is None else value[key] for key in ("value", "low", "high")))

"""What the page of an evaluation shows: every suite's figures, of one model or two, the paper's beside them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cusa_jax.evaluation.bootstrap import Interval
from cusa_jax.evaluation.sts import TASKS
from cusa_jax.report import published
from cusa_jax.report.figures import Figure, whiskers

TITLES = {
    "flickr30k": "Flickr30K",
    "coco5k": "COCO 5K",
    "coco1k": "COCO 1K, mean of five folds",
    "eccv": "ECCV Caption",
    "cxc": "Crisscrossed Captions",
    "cub": "CUB-200-2011",
    "sop": "Stanford Online Products",
    "inshop": "In-Shop Clothes",
    "inat": "iNaturalist 2018",
    "sts": "Semantic textual similarity",
}
_WORDS = {
    "i2t": "image → text",
    "t2i": "text → image",
    "rank1": "rank-1",
    "map_at_r": "mAP@R",
    "rprecision": "R-Precision",
    "r_mean": "mean recall",
    "rsum": "RSUM",
    "avg": "average",
    "spearman": "Spearman",
    **{f"{a}_{b}": f"{a}–{b}" for a in ("text", "image") for b in ("text", "image")},
    **{f"r{k}": f"R@{k}" for k in (1, 5, 10)},
    **{f"sts{year}": f"STS {year}" for year in range(12, 17)},
    "stsb": "STS-B",
    "sickr": "SICK-R",
}
_FIRST = {"sts": (*TASKS, "avg")}  # where a suite has too many figures to read, those that are read first


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure. values: of each model, {'value', 'low', 'high'} or None. difference: second minus first, with its
    'verdict', or None. paper: of each model and loss of the section, None where the paper has no such figure."""

    metric: str
    label: str
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
    rows: list[Row]
    more: list[Row]
    figure: Figure | None


def sections(models: Sequence[Mapping[str, Any]], compared: Mapping[str, Any]) -> list[Section]:
    """models: one or two of `results.record`. compared: `results.comparison` of two, {} of one."""
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
    parts = [model["suites"].get(suite) for model in models]
    done = [part for part in parts if part]
    names = short_names(models)
    official = published.IMAGES.get(suite)
    same_data = official is None or all(part["units"] == official for part in done)
    data = [f"{part['head']}; {part['units']:,} {part['unit']}s." for part in done]
    if len(set(data)) > 1:
        data = [f"{name}: {told}" for name, told in zip(names, data, strict=True)]
    notes = list(dict.fromkeys(note for part in done for note in part["notes"]))
    if not_compared:
        notes.insert(0, f"not compared: {not_compared}")
    if not same_data:
        notes.insert(0, f"not the paper's data, which are {official:,} images: its figures are no comparison")
    tables = _tables(suite, models) if same_data else {}
    rows = [
        Row(
            metric,
            _label(metric),
            [part["metrics"].get(metric) if part else None for part in parts],
            differences.get(metric),
            [[figures.get(metric) for figures in losses.values()] for losses in tables.values()],
        )
        for metric in dict.fromkeys(metric for part in done for metric in part["metrics"])
    ]
    first = [row for row in rows if row.metric in _FIRST.get(suite, (row.metric,))]
    return Section(
        TITLES[suite],
        list(dict.fromkeys(data)),
        notes,
        {model: list(losses) for model, losses in tables.items()},
        first,
        [row for row in rows if row not in first],
        _figure(TITLES[suite], first, names, tables),
    )


def _tables(suite: str, models: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """The paper's figures of the models that ours are; of all its CLIPs where one of ours is none of them."""
    tables = published.by_loss(suite)
    names = [published.MODELS.get(model["architecture"]) for model in models]
    return tables if None in names else {name: table for name, table in tables.items() if name in names}


def _label(metric: str) -> str:
    """'i2t_map_at_r' -> 'image → text, mAP@R'."""
    first, _, rest = metric.partition("_")
    if metric in _WORDS or first not in _WORDS:
        return _WORDS.get(metric, metric.replace("_", " "))
    return (
        f"{_WORDS[first]}{', ' if first in ('i2t', 't2i') else ' '}{_WORDS.get(rest, rest.replace('_', ' '))}"
    )


def _figure(
    title: str, rows: Sequence[Row], names: Sequence[str], tables: Mapping[str, Any]
) -> Figure | None:
    """Intervals of the percentages: of the differences where there are any, else of the figures."""
    rows = [row for row in rows if not row.metric.endswith(("_rank", "rsum"))]
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
                published_figure = Interval(losses["CUSA"][row.metric], math.nan, math.nan)
                drawn[row.label][f"paper, {model}, CUSA"] = published_figure
    return whiskers(f"{title}: figures and their 95 % intervals", drawn, "%") if rows else None


def _interval(value: Mapping[str, Any]) -> Interval:
    """As results.json has it, with null for what is no number."""
    return Interval(*(math.nan if value[key] is None else value[key] for key in ("value", "low", "high")))

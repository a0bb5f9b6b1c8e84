"""Plots as matplotlib draws them: curves, heat maps, intervals; each a PNG of its own that a page can arrange."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cusa_jax.evaluation.bootstrap import Interval
from cusa_jax.evaluation.metrics import METRICS, WAYS
from cusa_jax.runlog import read_metrics

matplotlib.use("agg")

# x and y.
Points = tuple[list[float], list[float]]
Lines = Sequence[Mapping[str, float]]
_DPI = 170
# What stands before the name of a term or scalar in the log.
_LOSS, _SCALARS = "loss_", {"tau_": "Temperature", "bias_": "Bias"}


@dataclasses.dataclass(frozen=True)
class Plot:
    """A picture with its heading and what it shows in words, for those who do not see it."""

    title: str
    description: str
    png: bytes


def training_curves(workdir: Path) -> list[Plot]:
    """Loss terms, gradient and learning rate over the steps of a run, as logged, and what is trained of scalars."""
    lines = read_metrics(workdir, "train")
    panels = [("Loss, weighted sum", {"loss": "loss"})]
    panels += [(loss_title(key), {term(key): key}) for key in logged(lines, _LOSS)]
    for prefix, word in _SCALARS.items():
        of_terms: dict[str, dict[str, str]] = {}
        for key in logged(lines, prefix):
            if moves(lines, key):
                of_terms.setdefault(term(key).split()[0], {})[term(key)] = key
        panels += [
            (f"{word}{'s' * (len(scalars) > 1)} of the {name} loss", scalars)
            for name, scalars in of_terms.items()
        ]
    panels += [
        ("Gradient norm, before clipping", {"norm": "gradient_norm"}),
        ("Learning rate", {"rate": "learning_rate"}),
    ]
    return _panels(panels, lines, "step")


def validation_curves(workdir: Path) -> list[Plot]:
    """Retrieval on the validation split before training and after each epoch: a plot for each way, and one for both."""
    validated = read_metrics(workdir, "val")
    # Older runs did not validate their start.
    first = 0 if validated and validated[0]["step"] == 0 else 1
    lines = [{**line, "step": epoch} for epoch, line in enumerate(validated, start=first)]
    words = {**WAYS, "": "Both ways"}
    panels = [
        (
            f"{words[way].capitalize()} (%)",
            {metric.label: metric.key for metric in METRICS if metric.plotted and metric.way == way},
        )
        for way in words
    ]
    return _panels(panels, lines, "epoch")


def logged(lines: Lines, prefix: str) -> list[str]:
    """The keys of metrics.jsonl that begin so, in the order of their first appearance."""
    return list(dict.fromkeys(key for line in lines for key in line if key.startswith(prefix)))


def moves(lines: Lines, key: str) -> bool:
    """Whether there is anything to see: a scalar that is not trained is a straight line."""
    return len({line[key] for line in lines if key in line}) > 1


def term(key: str) -> str:
    """'loss_csa' -> 'CSA', 'tau_csa_image' -> 'CSA image': what is short is an abbreviation."""
    name, *rest = key.partition("_")[2].split("_")
    return " ".join([name.upper() if len(name) <= 3 else name, *rest])


def loss_title(key: str) -> str:
    """'loss_contrastive' -> 'Contrastive loss'."""
    name = term(key)
    return f"{name[0].upper()}{name[1:]} loss"


def heat_map(title: str, matrix: np.ndarray) -> Plot:
    """Similarities [B, B]; the colours span those between different samples, for the diagonal is 1."""
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    # Axes in fixed places: pictures stand side by side.
    figure = plt.figure(figsize=(3.4, 2.8))
    axis, bar = figure.add_axes((0.01, 0.03, 0.775, 0.94)), figure.add_axes((0.81, 0.03, 0.04, 0.94))
    image = axis.imshow(matrix, vmin=others.min(), vmax=others.max(), cmap="viridis", interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    figure.colorbar(image, cax=bar).ax.tick_params(labelsize=9)
    return Plot(title, f"{title}: similarities of {len(matrix)} samples with each other", _png(figure))


def whiskers(
    title: str, rows: Mapping[str, Mapping[str, Interval]], x_label: str, *, zero: bool = False
) -> Plot:
    """A line for each of `rows`, in it a dot and interval for each series; NaN is not drawn. zero: marks it."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    size = (5.6, 0.75 + 0.3 * len(rows) + 0.2 * len(names))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    for number, name in enumerate(names):
        shift = 0.16 * (number - (len(names) - 1) / 2)
        y = [place + shift for place, row in enumerate(rows.values()) if name in row]
        x, low, high = np.array([dataclasses.astuple(row[name]) for row in rows.values() if name in row]).T
        axis.hlines(y, low, high, color=f"C{number}", linewidth=1.8)
        marker = "D" if np.isnan(low).all() else "o"
        axis.plot(x, y, marker, color=f"C{number}", label=name, markersize=4.5)
    if zero:
        axis.axvline(0, color="black", linewidth=0.9)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=9)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel(x_label, fontsize=9)
    axis.tick_params(labelsize=9)
    axis.grid(axis="x", alpha=0.3)
    if len(names) > 1:
        figure.legend(loc="outside upper left", fontsize=8, frameon=False)
    values = "; ".join(
        f"{label} {name} {_in_words(dot)}" for label, row in rows.items() for name, dot in row.items()
    )
    return Plot(title, f"{title}: {values}", _png(figure))


def _in_words(dot: Interval) -> str:
    return f"{dot.value:.4g}" + ("" if np.isnan(dot.low) else f" ({dot.low:.4g} to {dot.high:.4g})")


def series(lines: Lines, key: str) -> Points:
    """The points of those lines of metrics.jsonl that have the key."""
    return [line["step"] for line in lines if key in line], [line[key] for line in lines if key in line]


def draw_lines(axis: Axes, lines: Mapping[str, Points], x_label: str) -> None:
    """One colour a line, in order."""
    for number, (label, (x, y)) in enumerate(lines.items()):
        if x:
            marker = "o" if len(x) < 30 else ""
            axis.plot(x, y, color=f"C{number}", label=label, linewidth=1.3, marker=marker, markersize=3)
    axis.set_xlabel(x_label, fontsize=9)
    axis.tick_params(labelsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axis.grid(alpha=0.3)


def _panels(panels: Iterable[tuple[str, Mapping[str, str]]], lines: Lines, x_label: str) -> list[Plot]:
    """panels: heading, {label: key of the lines}. What there is none of is left out."""
    plots = []
    for title, keys in panels:
        curves = {label: points for label, key in keys.items() if (points := series(lines, key))[0]}
        if curves:
            figure, axis = plt.subplots(figsize=(3.7, 2.5), layout="constrained")
            draw_lines(axis, curves, x_label)
            if len(curves) > 1:
                axis.legend(
                    loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=min(3, len(curves)), fontsize=8,
                    frameon=False, handlelength=1.2, columnspacing=1.0,
                )  # fmt: skip
            ends = "; ".join(f"{label} from {y[0]:.4g} to {y[-1]:.4g}" for label, (_, y) in curves.items())
            plots.append(Plot(title, f"{title} by {x_label}: {ends}", _png(figure)))
    return plots


def _png(figure: plt.Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    plt.close(figure)
    return buffer.getvalue()

"""Figures as matplotlib draws them: curves and heat maps, each a PNG of its own that a page can arrange."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cusa_jax.evaluation.bootstrap import Interval
from cusa_jax.runlog import read_metrics

matplotlib.use("agg")

Points = tuple[list[float], list[float]]  # x and y
_DPI = 170

# Heading, {label: key of metrics.jsonl}. What a run has none of is left out.
TRAINING = (
    ("Loss, weighted sum", {"loss": "loss"}),
    ("Contrastive loss", {"contrastive": "loss_contrastive"}),
    ("CSA loss", {"CSA": "loss_csa"}),
    ("USA loss", {"USA": "loss_usa"}),
    ("Temperature of the contrastive loss", {"contrastive": "tau_contrastive"}),
    (
        "Temperatures of CSA and USA",
        {
            "CSA": "tau_csa",
            "CSA, image": "tau_csa_image",
            "CSA, text": "tau_csa_text",
            "USA": "tau_usa",
            "USA, image": "tau_usa_image",
            "USA, text": "tau_usa_text",
        },
    ),
    ("Gradient norm, before clipping", {"norm": "gradient_norm"}),
    ("Learning rate", {"rate": "learning_rate"}),
)
VALIDATION = (
    ("Image to text (%)", {"R@1": "txt_r1", "R@5": "txt_r5", "R@10": "txt_r10", "mAP@R": "txt_map_at_r"}),
    ("Text to image (%)", {"R@1": "img_r1", "R@5": "img_r5", "R@10": "img_r10", "mAP@R": "img_map_at_r"}),
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture with its heading and what it shows in words, for those who do not see it."""

    title: str
    description: str
    png: bytes


def training_curves(workdir: Path) -> list[Figure]:
    """Loss terms, temperatures, gradient and learning rate over the steps of a run."""
    return _panels(TRAINING, read_metrics(workdir, "train"), "step")


def validation_curves(workdir: Path) -> list[Figure]:
    """Retrieval on the validation split after each epoch."""
    lines = [{**line, "step": epoch} for epoch, line in enumerate(read_metrics(workdir, "val"), start=1)]
    return _panels(VALIDATION, lines, "epoch")


def heat_map(title: str, matrix: np.ndarray) -> Figure:
    """Similarities [B, B]; the colours span those between different samples, for the diagonal is 1."""
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    figure = plt.figure(figsize=(3.4, 2.8))  # axes in fixed places: pictures stand side by side
    axis, bar = figure.add_axes((0.01, 0.03, 0.775, 0.94)), figure.add_axes((0.81, 0.03, 0.04, 0.94))
    image = axis.imshow(matrix, vmin=others.min(), vmax=others.max(), cmap="viridis", interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    figure.colorbar(image, cax=bar).ax.tick_params(labelsize=9)
    return Figure(title, f"{title}: similarities of {len(matrix)} samples with each other", _png(figure))


def whiskers(
    title: str, rows: Mapping[str, Mapping[str, Interval]], x_label: str, *, zero: bool = False
) -> Figure:
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
    told = "; ".join(
        f"{label} {name} {_told(dot)}" for label, row in rows.items() for name, dot in row.items()
    )
    return Figure(title, f"{title}: {told}", _png(figure))


def _told(dot: Interval) -> str:
    return f"{dot.value:.4g}" + ("" if np.isnan(dot.low) else f" ({dot.low:.4g} to {dot.high:.4g})")


def series(lines: Sequence[Mapping[str, float]], key: str) -> Points:
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


def _panels(
    panels: Sequence[tuple[str, Mapping[str, str]]], lines: Sequence[Mapping[str, float]], x_label: str
) -> list[Figure]:
    figures = []
    for title, keys in panels:
        found = {label: points for label, key in keys.items() if (points := series(lines, key))[0]}
        if found:
            figure, axis = plt.subplots(figsize=(3.7, 2.5), layout="constrained")
            draw_lines(axis, found, x_label)
            if len(found) > 1:
                axis.legend(
                    loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=len(found), fontsize=8, frameon=False,
                    handlelength=1.2, columnspacing=1.0,
                )  # fmt: skip
            ends = "; ".join(f"{label} from {y[0]:.4g} to {y[-1]:.4g}" for label, (_, y) in found.items())
            figures.append(Figure(title, f"{title} by {x_label}: {ends}", _png(figure)))
    return figures


def _png(figure: plt.Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    plt.close(figure)
    return buffer.getvalue()

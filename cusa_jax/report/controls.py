"""The controls for people: effects as a picture, the table, and photographs on which the models part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from cusa_jax.controls.cells import BASELINE, TEACHERS, Cell
from cusa_jax.controls.contrasts import Contrast, Table, contrasts
from cusa_jax.data.sources import ImageFiles
from cusa_jax.errors import InputError
from cusa_jax.evaluation.human import HUMAN, Rated
from cusa_jax.evaluation.metrics import described
from cusa_jax.report import page

# Of each direction.
SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Parted:
    """A photograph and a caption of another one, as experts and two models see them.

    rating: the mean of the experts', 1 to 4. before, after: at what share of all rated pairs the baseline and the
    other cell score this one at most, in %, the mean over seeds.
    """

    photo: Path
    caption: str
    rating: float
    before: float
    after: float


def effects(table: Table, picture: Path) -> bool:
    """Every cell less its baseline with the interval over seeds, a panel a metric; teachers side by side, by colour.

    Returns whether there is anything to compare; without, no picture is drawn.
    """
    found = [contrast for contrast in contrasts(table) if contrast.first.loss == BASELINE.loss]
    if not found:
        return False
    rows = list(dict.fromkeys(_row(contrast.second) for contrast in found))
    metrics = list(dict.fromkeys(contrast.metric for contrast in found))
    size = (1.6 + 2.9 * len(metrics), 1.0 + 0.62 * len(rows))
    figure, axes = plt.subplots(
        1, len(metrics), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, metric in zip(axes[0], metrics, strict=True):
        for number, (teachers, offset) in enumerate(_OFFSETS.items()):
            own = [c for c in found if c.metric == metric and c.second.teachers == teachers]
            _draw(axis, own, [rows.index(_row(c.second)) + offset for c in own], number, teachers or "none")
        axis.axvline(0, color="black", linewidth=0.9)
        axis.set_title(described(metric, HUMAN.metrics).label, fontsize=10)
        axis.set_xlabel("difference to the baseline, points", fontsize=9)
        axis.tick_params(labelsize=9)
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(range(len(rows)), rows, fontsize=9)
    axes[0][0].set_ylim(len(rows) - 0.5, -0.5)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=3, fontsize=9, frameon=False, title=_LEGEND
    )
    figure.savefig(picture, dpi=150)
    plt.close(figure)
    return True


def parted(
    before: Sequence[Rated], after: Sequence[Rated], captions: Sequence[str], photos: Path
) -> dict[str, list[Parted]]:
    """The pairs that the second model moves furthest 'up' and 'down' among all that experts rated.

    before, after: the pairs as each seed's model scores them, the same pairs. captions: the gallery's.
    photos: a folder that holds NAME.jpg at any depth.
    """
    shares = [np.mean([_share(seed.scores) for seed in seeds], axis=0) for seeds in (before, after)]
    moved = shares[1] - shares[0]
    files = {file.stem: file for file in photos.rglob("*.jpg")}
    pairs = before[0]

    def shown(order: np.ndarray) -> list[Parted]:
        rows = [row for row in order.tolist() if pairs.image[row] in files][:SHOWN]
        return [
            Parted(
                files[pairs.image[row]],
                captions[pairs.caption[row]],
                float(pairs.rating[row]),
                float(shares[0][row]),
                float(shares[1][row]),
            )
            for row in rows
        ]

    if not files:
        raise InputError(f"{photos}: holds no .jpg; the photographs are those that the judgements name")
    order = np.argsort(moved, kind="stable")
    return {"up": shown(order[::-1]), "down": shown(order)}


def write(
    file: Path, text: str, picture: Path | None, pairs: Mapping[str, list[Parted]], cell: Cell | None
) -> Path:
    """controls.html: the picture, the table and the gallery in one file. cell: whose pairs they are."""
    images = ImageFiles([pair.photo for way in pairs.values() for pair in way])
    return page.write(
        file,
        "controls.html.j2",
        text=text,
        picture=picture.read_bytes() if picture else b"",
        pairs=pairs,
        images=images,
        cell=str(cell or ""),
    )


_LEGEND = "teachers (95 % interval over seeds)"
# In rows; recipes without teachers have a row of their own.
_OFFSETS = dict(zip(TEACHERS, (-0.2, 0.0, 0.2), strict=True)) | {"": 0.0}


def _row(cell: Cell) -> str:
    return " ".join(filter(None, (cell.loss.upper(), cell.recipe)))


def _draw(axis: plt.Axes, own: Sequence[Contrast], y: Sequence[float], number: int, label: str) -> None:
    if own:
        low, high = np.transpose([contrast.by_seed for contrast in own])
        axis.hlines(y, low, high, color=f"C{number}", linewidth=2)
        axis.plot([contrast.mean for contrast in own], y, "o", color=f"C{number}", label=label, markersize=5)


def _share(scores: np.ndarray) -> np.ndarray:
    """Of each, how many of all are no higher, in %."""
    return 100 * np.searchsorted(np.sort(scores), scores, side="right") / len(scores)

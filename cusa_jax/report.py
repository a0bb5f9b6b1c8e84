"""What people look at: the table that compares runs, and their learning curves as a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt

from cusa_jax.errors import InputError
from cusa_jax.runlog import read_metrics
from cusa_jax.workdir import RESULTS, read_json

matplotlib.use("agg")

# Column heading and key of results.json, in the order of the table; absent ones are left out.
COLUMNS = (
    ("i2t R@1", "txt_r1"),
    ("i2t R@5", "txt_r5"),
    ("i2t R@10", "txt_r10"),
    ("t2i R@1", "img_r1"),
    ("t2i R@5", "img_r5"),
    ("t2i R@10", "img_r10"),
    ("r_mean", "r_mean"),
    ("i2t mAP@R", "txt_map_at_r"),
    ("t2i mAP@R", "img_map_at_r"),
    ("exact i2t R@1", "txt_exact_r1"),
    ("exact t2i R@1", "img_exact_r1"),
)


def comparison(workdirs: Sequence[Path]) -> str:
    """The test results of finished runs as a text table, one run a row, with differences to the first.

    Raises InputError for a folder without results.
    """
    results = [_results(workdir) for workdir in workdirs]
    columns = [(title, key) for title, key in COLUMNS if key in results[0]["test"]]
    rows = [["test, %", *(title for title, _ in columns), "best step"]]
    for workdir, result in zip(workdirs, results, strict=True):
        rows.append(
            [workdir.name, *(f"{result['test'][key]:.2f}" for _, key in columns), str(result["best_step"])]
        )
    for workdir, result in zip(workdirs[1:], results[1:], strict=True):
        differences = [f"{result['test'][key] - results[0]['test'][key]:+.2f}" for _, key in columns]
        rows.append([f"{workdir.name} − {workdirs[0].name}", *differences, ""])
    # Upright: metrics are more than runs, and a terminal is narrow.
    upright = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in rows]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in upright
    )


def learning_curves(workdirs: Sequence[Path], picture: Path) -> None:
    """Loss terms and temperatures over training, retrieval on validation over epochs; one colour a run."""
    panels = [
        ("train", "loss_contrastive", "contrastive loss"),
        ("train", "loss_csa", "CSA loss"),
        ("train", "loss_usa", "USA loss"),
        ("train", "tau_contrastive", "contrastive temperature"),
        ("val", "r_mean", "validation, mean recall (%)"),
        ("val", "map_at_r", "validation, mAP@R on exact relevance (%)"),
    ]
    curves = {split: [read_metrics(workdir, split) for workdir in workdirs] for split in ("train", "val")}
    panels = [p for p in panels if any(p[1] in line for lines in curves[p[0]] for line in lines)]
    figure, axes = plt.subplots(
        2, -(-len(panels) // 2), figsize=(4.2 * -(-len(panels) // 2), 6.4), squeeze=False
    )
    for axis, (split, key, title) in zip(axes.flat, panels, strict=False):
        for number, (workdir, lines) in enumerate(zip(workdirs, curves[split], strict=True)):
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                axis.plot(*zip(*points, strict=True), color=f"C{number}", label=workdir.name, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def _results(workdir: Path) -> dict:
    path = workdir / RESULTS
    if not path.is_file():
        raise InputError(f"{path}: no such file; the run is not finished, its train command continues it")
    return read_json(path)

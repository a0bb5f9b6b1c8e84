"""Runs side by side: a table of their results, and their learning curves as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from cusa_jax.errors import InputError
from cusa_jax.report.figures import draw_lines, series
from cusa_jax.runlog import read_metrics
from cusa_jax.workdir import RESULTS, read_json

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
PANELS = (  # split, key of metrics.jsonl, heading
    ("train", "loss_contrastive", "contrastive loss"),
    ("train", "loss_csa", "CSA loss"),
    ("train", "loss_usa", "USA loss"),
    ("train", "tau_contrastive", "contrastive temperature"),
    ("val", "r_mean", "validation, mean recall (%)"),
    ("val", "map_at_r", "validation, mAP@R on exact relevance (%)"),
)


def comparison(workdirs: Sequence[Path]) -> str:
    """The test results of finished runs as a text table, one run a row, with differences to the first.

    Raises InputError for a folder without results.
    """
    results = [read_results(workdir) for workdir in workdirs]
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
    curves = {split: [read_metrics(workdir, split) for workdir in workdirs] for split in ("train", "val")}
    names = [workdir.name for workdir in workdirs]
    panels = [
        (title, dict(zip(names, (series(lines, key) for lines in curves[split]), strict=True)))
        for split, key, title in PANELS
    ]
    panels = [(title, lines) for title, lines in panels if any(x for x, _ in lines.values())]
    columns = -(-len(panels) // 2)
    figure, axes = plt.subplots(2, columns, figsize=(4.2 * columns, 6.4), squeeze=False)
    for axis, (title, lines) in zip(axes.flat, panels, strict=False):
        draw_lines(axis, lines, "step")
        axis.legend(fontsize=8)
        axis.set_title(title, fontsize=10)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def read_results(workdir: Path) -> dict:
    """results.json of a finished run. Raises InputError where there is none."""
    path = workdir / RESULTS
    if not path.is_file():
        raise InputError(f"{path}: no such file; the run is not finished, its train command continues it")
    return read_json(path)

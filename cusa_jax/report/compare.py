"""Runs side by side: a table of their results, and their learning curves as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from cusa_jax.evaluation.metrics import METRICS
from cusa_jax.report.plots import Lines, draw_lines, logged, loss_title, moves, series, term
from cusa_jax.runlog import read_metrics, read_results


def comparison(workdirs: Sequence[Path]) -> str:
    """The test results of finished runs as a text table, one run a column, with differences to the first.

    Raises InputError for a folder without results.
    """
    results = [read_results(workdir) for workdir in workdirs]
    tests = [result["test"] for result in results]
    shared = [
        metric for metric in METRICS if metric.unit == "%" and all(metric.key in test for test in tests)
    ]
    # What the soft labels are for comes before recall, which counts the annotated pairs alone.
    shared.sort(key=lambda metric: "map_at_r" not in metric.key)
    columns = [["test, %", *(metric.short for metric in shared), "best step"]]
    for workdir, result in zip(workdirs, results, strict=True):
        values = [f"{result['test'][metric.key]:.2f}" for metric in shared]
        columns.append([workdir.name, *values, str(result["best_step"])])
    for workdir, test in zip(workdirs[1:], tests[1:], strict=True):
        differences = [f"{test[metric.key] - tests[0][metric.key]:+.2f}" for metric in shared]
        columns.append([f"{workdir.name} − {workdirs[0].name}", *differences, ""])
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in zip(*columns, strict=True)
    )


def learning_curves(workdirs: Sequence[Path], picture: Path) -> None:
    """Loss terms and temperatures over training, retrieval on validation over epochs; one colour a run."""
    logs = {split: [read_metrics(workdir, split) for workdir in workdirs] for split in ("train", "val")}
    names = [workdir.name for workdir in workdirs]
    panels = [
        (title, dict(zip(names, (series(lines, key) for lines in logs[split]), strict=True)))
        for split, key, title in _panels(logs["train"])
    ]
    panels = [(title, curves) for title, curves in panels if any(x for x, _ in curves.values())]
    columns = -(-max(1, len(panels)) // 2)
    figure, axes = plt.subplots(2, columns, figsize=(4.2 * columns, 6.4), squeeze=False)
    for axis, (title, curves) in zip(axes.flat, panels, strict=False):
        draw_lines(axis, curves, "step")
        axis.legend(fontsize=8)
        axis.set_title(title, fontsize=10)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def _panels(logs: Sequence[Lines]) -> list[tuple[str, str, str]]:
    """(split, key of metrics.jsonl, heading): every term that a run logged, every scalar that one trained, then what
    validation shows."""
    lines = [line for log in logs for line in log]
    scalars = [
        ("train", key, f"{word}, {term(key)}")
        for prefix, word in (("tau_", "temperature"), ("bias_", "bias"))
        for key in logged(lines, prefix)
        if any(moves(log, key) for log in logs)
    ]
    return [
        *(("train", key, loss_title(key)) for key in logged(lines, "loss_")),
        *scalars,
        *(
            ("val", metric.key, f"validation, {metric.label} (%)")
            for metric in METRICS
            if metric.plotted and not metric.way
        ),
    ]

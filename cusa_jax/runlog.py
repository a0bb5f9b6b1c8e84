"""What a run leaves to read: one line per interval on the console, metrics.jsonl, and TensorBoard files."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from cusa_jax.distributed import is_first
from cusa_jax.errors import InputError
from cusa_jax.evaluation import metrics as vocabulary
from cusa_jax.files import written_whole
from cusa_jax.jsonfile import read_json
from cusa_jax.tensorboard import Board
from cusa_jax.workdir import RESULTS

METRICS = "metrics.jsonl"
INTERVALS = "test_intervals"  # key of results.json: {metric: [low, high]}, 95 %, of test metrics


class RunLog:
    """Writes metrics under `workdir`.

    start: the step that a run starts from; what lies after it, of a run that came further, is dropped. None drops
    nothing. Of several processes only the first one writes; they all measure the same.
    """

    def __init__(
        self, workdir: Path, total_steps: int, steps_per_epoch: int, batch_size: int, *, start: int | None
    ):
        self._total, self._per_epoch, self._batch_size = total_steps, steps_per_epoch, batch_size
        self._last = (start or 0, time.monotonic())
        self._path = workdir / METRICS
        self._board: Board | None = None
        self._of_start = ""
        if is_first():
            if start is not None:
                _keep_until(self._path, start)
            self._board = Board(workdir / "tensorboard", purge_step=None if start is None else start + 1)

    def start_clock(self, step: int, metrics: Any) -> None:
        """Waits for the first step's metrics: what came before, compiling above all, is not in the rate."""
        jax.block_until_ready(metrics)
        self._last = (step, time.monotonic())

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one step; the rate is measured since the last call. Prints the progress line."""
        if self._board is None:
            return
        last_step, last_time = self._last
        now = time.monotonic()
        self._last = (step, now)
        steps_per_second = (step - last_step) / max(now - last_time, 1e-9)
        speed, rate = {}, ""
        # There is no rate after a first step, which ran before the clock.
        if steps_per_second:
            speed = {"pairs_per_second": steps_per_second * self._batch_size}
            left = _duration((self._total - step) / steps_per_second)
            rate = f" | {speed['pairs_per_second']:.0f} pairs/s | {left} left"
        self.write(step, "train", {**metrics, **speed})
        terms = " ".join(
            f"{k.removeprefix('loss_')} {v:.4f}" for k, v in metrics.items() if k.startswith("loss_")
        )
        print(
            f"step {step}/{self._total} | epoch {step / self._per_epoch:.2f} | "
            f"loss {metrics['loss']:.4f} ({terms}){rate}",
            flush=True,
        )

    def evaluated(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Metrics of one evaluation; the time it took does not count into the training rate."""
        if self._board is None:
            return
        self.write(step, split, metrics)
        shown = [metric.key for metric in vocabulary.METRICS if metric.logged and metric.key in metrics]
        values = " ".join(f"{key} {metrics[key]:.2f}" for key in shown)
        print(f"step {step}/{self._total} | {split}: {values}", flush=True)
        self._last = (step, time.monotonic())

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, one point per curve of TensorBoard."""
        if self._board is None:
            return
        line = json.dumps({"step": step, "split": split, **metrics}) + "\n"
        if step == 0:
            # It comes after the first step: whoever opens the file finds losses in its first line.
            self._of_start = line
        else:
            with self._path.open("a") as file:
                file.write(line + self._of_start)
            self._of_start = ""
        self._board.write(step, {f"{split}/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def read_metrics(workdir: Path, split: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that belong to `split`, in order of their steps, under today's keys.

    Raises InputError where the file cannot be read, or a line is not one of metrics.
    """
    lines = [line for _, line in _lines(workdir / METRICS)]
    return [vocabulary.current(line) for line in lines if line["split"] == split]


def read_results(workdir: Path) -> dict[str, Any]:
    """results.json of a finished run, its test metrics under today's keys; INTERVALS is {} of an older one's.

    Raises InputError where there is none, or it is not one of this program's.
    """
    path = workdir / RESULTS
    if not path.is_file():
        raise InputError(f"{path}: no such file; the run is not finished, its train command continues it")
    results = read_json(path)
    test, intervals = results.get("test"), results.get(INTERVALS, {})
    known = _are_intervals(intervals) and isinstance(results.get("best_step"), int)
    if not isinstance(test, dict) or not _are_numbers(test) or not known:
        raise InputError(
            f"{path}: not the results of a training; remove it, and its train command makes it again"
        )
    return {**results, "test": vocabulary.current(test), INTERVALS: intervals}


def _keep_until(path: Path, step: int) -> None:
    """Drops later lines, and the validation of `step`, which is repeated."""
    kept = [
        text
        for text, line in (_lines(path) if path.exists() else [])
        if line["step"] < step or (line["step"] == step and line["split"] == "train")
    ]
    with written_whole(path) as fresh:
        fresh.write_bytes(b"".join(kept))


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each line as it is written and as metrics, without a last one that a kill cut short. Raises InputError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    whole, _, _ = content.rpartition(b"\n")
    texts = whole.split(b"\n") if whole else []
    return [(text + b"\n", _metrics(text, path, number)) for number, text in enumerate(texts, start=1)]


def _metrics(text: bytes, path: Path, number: int) -> dict[str, Any]:
    """{'step': int, 'split': str, and numbers}."""
    try:
        line = json.loads(text.decode())
        step, split, values = line["step"], line["split"], {**line, "split": 0}
        if not isinstance(step, int) or not isinstance(split, str) or not _are_numbers(values):
            raise ValueError("another type")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: line {number} is not a line of metrics; remove it") from error
    return line


def _are_numbers(metrics: Mapping[Any, Any]) -> bool:
    """Whether all values are floats, or whole numbers that a float can hold."""
    return all(
        type(value) is float or (type(value) is int and abs(value) < 2**63) for value in metrics.values()
    )


def _are_intervals(values: Any) -> bool:
    """Whether it is {metric: [low, high]}."""
    return isinstance(values, dict) and all(
        isinstance(ends, list) and len(ends) == 2 and _are_numbers(dict(enumerate(ends)))
        for ends in values.values()
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

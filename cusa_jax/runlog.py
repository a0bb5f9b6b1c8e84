"""What a run leaves to read: one line per interval on the console, metrics.jsonl, and TensorBoard files."""

import json
import time
from pathlib import Path
from typing import Any

import jax

from cusa_jax.distributed import is_first
from cusa_jax.errors import InputError
from cusa_jax.files import written_whole
from cusa_jax.tensorboard import Board

METRICS = "metrics.jsonl"
HEADLINE = ("txt_r1", "txt_r5", "txt_r10", "img_r1", "img_r5", "img_r10", "r_mean", "map_at_r")


class RunLog:
    """Writes metrics under `workdir`. A resumed run drops what lies after the step it restarts from.

    Of several processes only the first one writes; they all measure the same.
    """

    def __init__(self, workdir: Path, total_steps: int, steps_per_epoch: int, batch_size: int, *, start: int):
        self._total, self._per_epoch, self._batch_size = total_steps, steps_per_epoch, batch_size
        self._last = (start, time.monotonic())
        self._path = workdir / METRICS
        self._board: Board | None = None
        if is_first():
            _keep_until(self._path, start)
            self._board = Board(workdir / "tensorboard", purge_step=start + 1)

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
        speed, told = {}, ""
        if steps_per_second:  # not after a first step, which ran before the clock
            speed = {"pairs_per_second": steps_per_second * self._batch_size}
            left = _duration((self._total - step) / steps_per_second)
            told = f" | {speed['pairs_per_second']:.0f} pairs/s | {left} left"
        self.write(step, "train", {**metrics, **speed})
        terms = " ".join(
            f"{k.removeprefix('loss_')} {v:.4f}" for k, v in metrics.items() if k.startswith("loss_")
        )
        print(
            f"step {step}/{self._total} | epoch {step / self._per_epoch:.2f} | "
            f"loss {metrics['loss']:.4f} ({terms}){told}",
            flush=True,
        )

    def evaluated(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Metrics of one evaluation; the time it took does not count into the training rate."""
        if self._board is None:
            return
        self.write(step, split, metrics)
        told = " ".join(f"{name} {metrics[name]:.2f}" for name in HEADLINE if name in metrics)
        print(f"step {step}/{self._total} | {split}: {told}", flush=True)
        self._last = (step, time.monotonic())

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, one point per curve of TensorBoard."""
        if self._board is None:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
        self._board.write(step, {f"{split}/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def read_metrics(workdir: Path, split: str) -> list[dict[str, float]]:
    """The lines of metrics.jsonl that belong to `split`, in order of their steps."""
    lines = [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def _keep_until(path: Path, step: int) -> None:
    """Drops later lines, the validation of `step`, which is repeated, and a last line that a kill cut short."""
    kept = []
    for number, line in enumerate(
        path.read_text().splitlines(keepends=True) if path.exists() else [], start=1
    ):
        if not line.endswith("\n"):
            continue
        try:
            metrics = json.loads(line)
            if metrics["step"] < step or (metrics["step"] == step and metrics["split"] == "train"):
                kept.append(line)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: line {number} is not a line of metrics; remove it") from error
    with written_whole(path) as fresh:
        fresh.write_text("".join(kept))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

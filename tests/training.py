"""The training command as tests run it: started, killed, and what it left behind."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "data.world.train": 64,
    "data.world.val": 12,
    "data.world.test": 12,
    "batch_size": 32,
    "schedule.epochs": 3,
    "eval.batch_size": 60,
    "model.sizes": "vision_layers=1,text_layers=1",
    "checkpoint.every_steps": 4,
    "checkpoint.keep": 3,
    "log.every_steps": 2,
}
STEPS = 30  # 64 images x 5 captions / 32 rows x 3 epochs


def command(workdir: Path, data: Path, config="configs/demo.py", **overrides) -> list[str]:
    settings = {**SETTINGS, "data.path": data, **overrides}
    options = [f"--config.{key}={value}" for key, value in settings.items()]
    return [sys.executable, "scripts/train.py", f"--config={config}", f"--workdir={workdir}", *options]


def start(*args, **overrides) -> subprocess.Popen:
    return subprocess.Popen(
        command(*args, **overrides), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(*args, **overrides) -> subprocess.CompletedProcess:
    return subprocess.run(command(*args, **overrides), cwd=ROOT, capture_output=True, text=True, check=False)


def kill_after(step: int, number: signal.Signals, *args, **overrides) -> subprocess.Popen:
    """Starts the command and sends it a signal as soon as it reports `step`; returns it when it has ended."""
    with start(*args, **overrides) as process:
        wait_for_step(process, step)
        process.send_signal(number)
        process.stdout.read()
    return process


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    told = []
    for line in process.stdout:
        told.append(line)
        if line.startswith(f"step {step}/"):
            return
    raise AssertionError(f"ended before step {step}: {''.join(told)}")


def metrics(workdir: Path) -> list[dict]:
    """metrics.jsonl without the speed, which no two runs share."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "pairs_per_second"} for line in lines]


def saved(folder: Path, item: str) -> dict[str, np.ndarray]:
    """{path of a leaf: array} of what a checkpoint's folder holds as 'state' or 'model'."""
    restored = ocp.StandardCheckpointer().restore((folder / item).absolute())
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(restored)
    }


def state_at(workdir: Path, step: int = STEPS) -> dict[str, np.ndarray]:
    return saved(workdir / "checkpoints" / str(step), "state")


def assert_same_end(workdir: Path, undisturbed: Path) -> None:
    assert json.loads((workdir / "results.json").read_text()) == json.loads(
        (undisturbed / "results.json").read_text()
    )
    assert metrics(workdir) == metrics(undisturbed)
    assert_same_bits(state_at(workdir), state_at(undisturbed))


def assert_same_bits(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)

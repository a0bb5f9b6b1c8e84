"""Recipes of fine-tuning as their users run them: killed, resumed and extended, a run ends with the same bits."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from training import assert_same_bits, kill_after, run, saved, state_at

from cusa_jax.data import world

SIZES = {"train": 32, "val": 8, "test": 8}
# At a constant rate: the steps of a run of two epochs are then the first of a run of three.
RECIPE = {
    "schedule.warmup_epochs": 0, "schedule.min_lr": 1e-3, "optim.lr": 1e-3, "eval.batch_size": 40,
    "checkpoint.every_steps": 2, "log.every_steps": 1, "optim.ema": 0.9, "optim.lora_rank": 2, "optim.layer_decay": 0.5,
    "optim.rules": "cross_text/.* after=1", "schedule.patience": 2, "data.crop": 0.6, "data.flip": "true",
    **{f"data.world.{split}": count for split, count in SIZES.items()},
}  # fmt: skip
STEPS = 15  # 32 images x 5 captions / 32 rows x 3 epochs


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return world.write(tmp_path_factory.mktemp("data") / "world", SIZES)


def train(workdir: Path, data: Path, epochs: int = 3) -> str:
    done = run(workdir, data, **RECIPE | {"schedule.epochs": epochs})
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill(step: int, workdir: Path, data: Path, epochs: int = 3) -> None:
    process = kill_after(step, signal.SIGKILL, workdir, data, **RECIPE | {"schedule.epochs": epochs})
    assert process.returncode == -signal.SIGKILL


def best(workdir: Path) -> dict[str, np.ndarray]:
    results = json.loads((workdir / "results.json").read_text())
    return saved(workdir / "best" / str(results["best_step"]), "model")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(workdir, data)
    return workdir


def test_only_what_the_recipe_trains_has_moved(undisturbed):
    first, last = (state_at(undisturbed, step) for step in (14, STEPS))
    moved = {name for name in last if "params" in name and (last[name] != first[name]).any()}
    towers = {name for name in moved if "['model']['image']" in name or "['model']['text']" in name}
    assert not towers
    assert any("['lora']['image']" in name for name in moved)
    assert any("cross_text" in name for name in moved)
    # The best model is an ordinary one, of averages: not what the last step left.
    assert not any("lora" in name for name in best(undisturbed))


def test_a_run_that_is_killed_and_then_extended_ends_with_the_same_bits(undisturbed, data, tmp_path):
    workdir = tmp_path / "run"
    # Other moments each time: what follows must not depend on them.
    first, second = np.random.default_rng().integers([1, 11], [10, 15])
    kill(first, workdir, data, epochs=2)
    train(workdir, data, epochs=2)
    before = (workdir / "results.json").read_bytes()
    assert "finished" in train(workdir, data, epochs=2)
    kill(second, workdir, data)
    train(workdir, data)
    assert (workdir / "results_of_2_epochs.json").read_bytes() == before
    assert_same_bits(state_at(workdir, STEPS), state_at(undisturbed, STEPS))
    assert_same_bits(best(workdir), best(undisturbed))
    assert (workdir / "results.json").read_bytes() == (undisturbed / "results.json").read_bytes()

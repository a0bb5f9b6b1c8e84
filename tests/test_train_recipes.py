"""Recipes of fine-tuning as their users run them: killed, resumed and extended, a run ends with the same bits."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cusa_jax.data import world

ROOT = Path(__file__).parent.parent
SIZES = {"train": 32, "val": 8, "test": 8}
# At a constant rate: the steps of a run of two epochs are then the first of a run of three.
SETTINGS = {
    "batch_size": 32, "schedule.epochs": 3, "schedule.warmup_epochs": 0, "schedule.min_lr": 1e-3, "optim.lr": 1e-3,
    "eval.batch_size": 40, "model.sizes": "vision_layers=1,text_layers=1", "checkpoint.every_steps": 2,
    "log.every_steps": 1, "optim.ema": 0.9, "optim.lora_rank": 2, "optim.layer_decay": 0.5,
    "optim.rules": "cross_text/.* after=1", "schedule.patience": 2, "data.crop": 0.6, "data.flip": "true",
    **{f"data.world.{split}": count for split, count in SIZES.items()},
}  # fmt: skip
STEPS = 15  # 32 images x 5 captions / 32 rows x 3 epochs


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return world.write(tmp_path_factory.mktemp("data") / "world", SIZES)


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


def start(workdir: Path, data: Path, **overrides) -> subprocess.Popen:
    settings = {**SETTINGS, "data.path": data, **overrides}
    options = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [
        sys.executable,
        "scripts/train.py",
        "--config=configs/demo.py",
        f"--workdir={workdir}",
        *options,
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(workdir: Path, data: Path, **overrides) -> str:
    with start(workdir, data, **overrides) as process:
        said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def kill_at(step: int, workdir: Path, data: Path, **overrides) -> None:
    told = []
    with start(workdir, data, **overrides) as process:
        for line in process.stdout:
            told.append(line)
            if line.startswith(f"step {step}/"):
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL, "".join(told)


def saved(folder: Path, item: str) -> dict[str, np.ndarray]:
    restored = ocp.StandardCheckpointer().restore((folder / item).absolute())
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(restored)
    }


def best(workdir: Path) -> dict[str, np.ndarray]:
    results = json.loads((workdir / "results.json").read_text())
    return saved(workdir / "best" / str(results["best_step"]), "model")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(workdir, data)
    return workdir


def test_only_what_the_recipe_trains_has_moved(undisturbed):
    first, last = (saved(undisturbed / "checkpoints" / str(step), "state") for step in (14, STEPS))
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
    kill_at(first, workdir, data, **{"schedule.epochs": 2})
    run(workdir, data, **{"schedule.epochs": 2})
    before = (workdir / "results.json").read_bytes()
    assert "finished" in run(workdir, data, **{"schedule.epochs": 2})
    kill_at(second, workdir, data)
    run(workdir, data)
    assert (workdir / "results_of_2_epochs.json").read_bytes() == before
    ends = [saved(folder / "checkpoints" / str(STEPS), "state") for folder in (workdir, undisturbed)]
    for ours, theirs in (ends, (best(workdir), best(undisturbed))):
        assert ours.keys() == theirs.keys()
        for name, leaf in ours.items():
            np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)
    assert (workdir / "results.json").read_bytes() == (undisturbed / "results.json").read_bytes()

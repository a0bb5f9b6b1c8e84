"""Trains the cells, each with every seed, and keeps of each run what is measured later."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cusa_jax import finish, sharding
from cusa_jax.config import typed
from cusa_jax.controls.cells import Cell, Recipes, cell_config
from cusa_jax.data.splits import Split
from cusa_jax.evaluation.retrieval import Evaluator, ScoredSplit
from cusa_jax.evaluation.scores import InnerProducts, Matrix, Scores
from cusa_jax.experiment import read_split
from cusa_jax.files import written_whole
from cusa_jax.weights.formats import load_model
from cusa_jax.workdir import RESULTS, check_owner, more_epochs


def run(
    config: ConfigDict,
    seeds: Sequence[int],
    workdir: Path,
    cells: Sequence[Cell],
    recipes: Recipes | None = None,
    split: str = "test",
) -> bool:
    """Trains every cell with every seed under `config`, in workdir/CELL-SEED; what is finished is not repeated.

    split: of which a run's scores are kept. Returns False where SIGTERM or SIGINT asked to stop; the same call
    continues. Raises InputError where a folder is another configuration's: a recipe that changed keeps no old runs.
    """
    # Every cell once before any twice.
    todo = [(seed, cell) for seed in seeds for cell in cells]
    trained, start = 0, time.monotonic()
    for number, (seed, cell) in enumerate(todo, start=1):
        folder, own = run_folder(workdir, cell, seed), cell_config(config, cell, seed, recipes)
        finished = _is_finished(own, folder)
        if finished and _has_scores(own, folder, split):
            continue
        elapsed = time.monotonic() - start
        left = f", {elapsed / trained * (len(todo) - number + 1) / 60:.0f} min left" if trained else ""
        print(f"--- run {number} of {len(todo)}: {cell}, seed {seed}{left}", flush=True)
        if not finished and finish.run(own, folder) is None:
            return False
        _keep_scores(own, folder, split)
        trained += 1
        # The programs of one cell serve no other; the same cell's come from the disk's cache.
        jax.clear_caches()
    return True


def _is_finished(config: ConfigDict, folder: Path) -> bool:
    """Whether the run in `folder` ended with as many epochs as `config` has."""
    if not (folder / RESULTS).is_file():
        return False
    check_owner(folder, config.to_dict())
    return not more_epochs(folder, config.to_dict())


def _has_scores(config: ConfigDict, folder: Path, split: str) -> bool:
    """Whether a finished run's scores are kept, and are not those of fewer epochs."""
    file = folder / _scores_file(split)
    if not file.is_file():
        return False
    with np.load(file, allow_pickle=False) as arrays:
        return "epochs" in arrays and int(arrays["epochs"]) == config.schedule.epochs


def run_folder(workdir: Path, cell: Cell, seed: int) -> Path:
    return workdir / f"{cell}-{seed}"


def kept_split(config: ConfigDict, folder: Path, name: str) -> Split:
    """The split whose scores a run in `folder` kept."""
    student, _ = load_model(folder)
    return read_split(typed(config), name, student.inputs)


def kept_scores(folder: Path, split: str) -> ScoredSplit:
    """What `run` kept of a run."""
    with np.load(folder / _scores_file(split), allow_pickle=False) as arrays:
        scores = (
            Matrix(arrays["scores"]) if "scores" in arrays else InnerProducts(arrays["image"], arrays["text"])
        )
        return ScoredSplit(arrays["images"], arrays["captions"], scores)


def _scores_file(split: str) -> str:
    return f"{split}_embeddings.npz"


def _keep_scores(config: ConfigDict, folder: Path, name: str) -> None:
    """Writes a split's embeddings by a finished run, and drops what only its continuation would need."""
    student, variables = load_model(folder)
    mesh = sharding.make_mesh(config.sharding.fsdp)
    evaluator = Evaluator(student, mesh, config)
    split = read_split(typed(config), name, student.inputs)
    scored = evaluator.score(sharding.put_params(variables, mesh), split)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    with written_whole(folder / _scores_file(name)) as fresh, fresh.open("wb") as file:
        about = {"epochs": config.schedule.epochs, "images": scored.images, "captions": scored.captions}
        np.savez(file, **about, **_arrays(scored.scores))


def _arrays(scores: Scores) -> dict[str, Any]:
    """Embeddings where there are any; else the scores, which take more room."""
    if isinstance(scores, InnerProducts):
        return {"image": scores.images, "text": scores.texts}
    return {"scores": scores.rows("i2t", np.arange(scores.shape[0]))}

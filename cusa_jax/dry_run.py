"""What a training would do, without doing it: samples, steps, parameters, memory, and the time to its first step."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from cusa_jax import sharding
from cusa_jax.data.layouts.prepared import is_prepared
from cusa_jax.experiment import build
from cusa_jax.keys import Config
from cusa_jax.step import jitted
from cusa_jax.teachers.bank_files import read_record
from cusa_jax.teachers.features import SUFFIXES
from cusa_jax.workdir import RESULTS, check_owner, more_epochs


def describe(config: Config, workdir: Path) -> str:
    """A line each. Reads data, weights and teachers as a training does, and compiles its step; writes nothing.

    The embedded world is made in a temporary folder, and teachers are live where a bank would be computed first.
    Raises InputError for whatever a training in `workdir` would find wrong before its first step.
    """
    started = time.monotonic()
    values = dataclasses.asdict(config)
    check_owner(workdir, values)
    if (workdir / RESULTS).exists() and not more_epochs(workdir, values):
        return f"finished: {workdir / RESULTS} holds the results, nothing would be trained"
    with _without_writing(config) as unwritten:
        run = build(unwritten)
        with contextlib.closing(run.batches):
            batch = sharding.put_batch(next(run.batches), run.mesh)
    compiled = jitted(run.recipe).lower(run.abstract_state, run.teacher_params, batch).compile()
    seconds = time.monotonic() - started
    memory = compiled.memory_analysis()
    planned = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    counts = {name: len(split.captions) for name, split in run.splits.items()}
    images = {name: len(split.images) for name, split in run.splits.items()}
    parameters = {
        path: size for path, size in _sizes(run.abstract_state.params).items() if path[0] == "model"
    }
    trained = {path: size for path, size in parameters.items() if run.recipe.treatments[path].train}
    return "\n".join(
        (
            *(f"{name:<10}{counts[name]:,} captions of {images[name]:,} images" for name in run.splits),
            f"steps     {run.last_step:,}: {config.schedule.epochs} epochs of {run.steps_per_epoch:,}, "
            f"{config.batch_size} pairs each",
            f"model     {run.recipe.student.family}, {sum(parameters.values()):,} parameters, "
            f"{sum(trained.values()):,} of them trained",
            f"devices   {run.mesh.size} x {jax.devices()[0].device_kind}, {planned / 2**20:,.0f} MiB each in a step",
            f"start     {seconds:.0f} s from here to the first step: reading, loading, compiling",
            *_bank_to_compute(config),
        )
    )


@contextlib.contextmanager
def _without_writing(config: Config) -> Iterator[Config]:
    """The same training of data and teachers that nothing is written for."""
    if _bank_to_compute(config):
        config = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, bank=""))
    path = config.data.path
    if not config.data.world.train or is_prepared(path) or Path(path).exists():
        yield config
        return
    with tempfile.TemporaryDirectory() as folder:
        data = dataclasses.replace(config.data, path=str(Path(folder) / "world"))
        yield dataclasses.replace(config, data=data)


def _bank_to_compute(config: Config) -> list[str]:
    """A line that says so where the bank would be computed, or completed, first."""
    teacher = config.teacher
    live = {"image": teacher.image, "text": teacher.text}
    banks = [side for side, source in live.items() if source and Path(source).suffix not in SUFFIXES]
    if not teacher.bank or all(_is_whole(Path(teacher.bank, side)) for side in banks):
        return []
    return [f"bank      {teacher.bank}: its features would be computed first, which is not in the start; memory is "
            "that of live teachers"]  # fmt: skip


def _is_whole(bank: Path) -> bool:
    record = read_record(bank)
    return record is not None and record.done == record.shape[0]


def _sizes(tree: object) -> dict[tuple[str, ...], int]:
    """How many numbers each array holds, by its path."""
    return {
        tuple(key.key for key in path): int(np.prod(leaf.shape))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

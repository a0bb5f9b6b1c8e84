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
from cusa_jax.experiment import build
from cusa_jax.keys import Config
from cusa_jax.step import jitted
from cusa_jax.teachers.bank_files import read_record
from cusa_jax.teachers.features import is_feature_file
from cusa_jax.teachers.load import banks_to_compute
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
        unfinished = banks_to_compute(config, run.splits["train"])
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
            *(
                f"bank      {bank}: would be computed first, which is not in the start; memory is that of live teachers"
                for bank in unfinished
            ),
        )
    )


@contextlib.contextmanager
def _without_writing(config: Config) -> Iterator[Config]:
    """The same training of data and teachers that nothing is written for."""
    teacher, path = config.teacher, Path(config.data.path)
    sources = {"image": teacher.image, "text": teacher.text}
    banks = [Path(teacher.bank, side) for side, source in sources.items() if not is_feature_file(source)]
    if teacher.bank and not all(map(_is_whole, banks)):
        config = dataclasses.replace(config, teacher=dataclasses.replace(teacher, bank=""))
    # As the world is written: into an empty folder too.
    if not config.data.world.train or path.is_file() or (path.is_dir() and any(path.iterdir())):
        yield config
        return
    with tempfile.TemporaryDirectory() as folder:
        data = dataclasses.replace(config.data, path=str(Path(folder) / "world"))
        yield dataclasses.replace(config, data=data)


def _is_whole(bank: Path) -> bool:
    record = read_record(bank)
    return record is not None and record.done == record.shape[0]


def _sizes(tree: object) -> dict[tuple[str, ...], int]:
    """How many numbers each array holds, by its path."""
    return {
        tuple(key.key for key in path): int(np.prod(leaf.shape))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

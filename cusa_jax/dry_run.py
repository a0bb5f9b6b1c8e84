"""What a training would do, without doing it: samples, steps, parameters, memory, and the time to its first step."""

from __future__ import annotations

import time

import jax
import numpy as np

from cusa_jax import sharding
from cusa_jax.experiment import build
from cusa_jax.keys import Config
from cusa_jax.step import jitted


def describe(config: Config) -> str:
    """A line each. Reads data, weights and teachers as a training does, and compiles its step; writes nothing.

    Raises InputError for whatever a training would find wrong before its first step.
    """
    started = time.monotonic()
    run = build(config)
    try:
        batch = sharding.put_batch(next(run.batches), run.mesh)
    finally:
        run.batches.close()
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
        )
    )


def _sizes(tree: object) -> dict[tuple[str, ...], int]:
    """How many numbers each array holds, by its path."""
    return {
        tuple(key.key for key in path): int(np.prod(leaf.shape))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

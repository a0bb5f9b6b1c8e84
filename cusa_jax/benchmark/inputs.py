"""The train step with and without its input pipeline, on the data and teachers of a configuration."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from cusa_jax import sharding
from cusa_jax.benchmark import measure
from cusa_jax.benchmark.measure import Row
from cusa_jax.config import validate
from cusa_jax.experiment import build
from cusa_jax.step import jitted
from cusa_jax.types import Batch


def rows(config: Any, batches: int, repeats: int) -> list[Row]:
    """Loading alone, stepping alone, and both as training does them, over the same first `batches` of a run.

    With perfect overlap both take as long as the slower of the two. A round starts the loader anew.
    """
    run = build(validate(config))
    step = jitted(run.recipe)
    state = run.initial_state()

    def load() -> Iterator[Batch]:
        run.batches.set_state({"step": 0})
        yield from itertools.islice(run.batches, batches)
        run.batches.close()  # what it would prefetch disturbs what is timed next

    def train(source: Iterable[Batch]) -> dict[str, jax.Array]:
        nonlocal state
        for batch in source:
            state, metrics = step(state, run.teacher_params, sharding.put_batch(batch, run.mesh))
        return metrics

    kept = list(load())
    calls = {
        "input alone": lambda: list(load()) and None,
        "step alone": lambda: train(kept),
        "step with input": lambda: train(load()),
    }
    times = measure.time_rounds(calls, repeats)
    pairs = batches * config.batch_size
    return [
        {"part": name, "batch": config.batch_size, "s": time.seconds / batches, "± s": time.spread / batches,
         "pairs/s": pairs / time.seconds, "× step alone": time.seconds / times["step alone"].seconds}
        for name, time in times.items()
    ]  # fmt: skip

"""The loss terms with their gradients, dense against tiled: time, memory, and how far apart they are."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from cusa_jax import objective, scalars
from cusa_jax.benchmark import measure
from cusa_jax.benchmark.measure import Row, Time
from cusa_jax.types import Embeddings


def row(loss: Any, batch: int, *, width: int, tile: int, dense: bool, repeats: int) -> Row:
    """loss: `config.loss`. width: of all features. dense: whether the B×B way runs, too. repeats: 0 compiles only."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, batch, width)).astype(np.float32)
    ids = rng.integers(0, batch, batch).astype(np.int32)
    specs = scalars.specifications(loss)
    values = scalars.clamp(scalars.init(specs), specs)
    arguments = jax.device_put((features[:4], features[4:], ids, values))
    compiled = {
        name: jax.jit(jax.value_and_grad(functools.partial(_of_features, loss=with_tile(loss, side)), argnums=(0, 3)))
        .lower(*arguments)
        .compile()
        for name, side in (("dense", 0), ("tiled", tile))
        if name == "tiled" or dense
    }  # fmt: skip
    calls = {name: functools.partial(function, *arguments) for name, function in compiled.items()}
    times = measure.time_rounds(calls, repeats) if repeats else {}
    columns: Row = {"batch": batch, "width": width}
    for name in ("dense", "tiled"):
        time = times.get(name, Time())
        columns |= {f"{name} s": time.seconds, f"{name} ± s": time.spread}
        columns[f"{name} MiB"] = measure.peak_mebibytes(compiled[name]) if name in compiled else np.nan
    columns["time ratio"] = columns["tiled s"] / columns["dense s"]
    columns["max error"] = _max_error(calls["tiled"](), calls["dense"]()) if dense and repeats else np.nan
    return columns


def with_tile(loss: Any, side: int) -> Any:
    """`config.loss` computed in tiles of `side`; 0 is dense."""
    return dataclasses.replace(loss, tile=side)


def _of_features(student: jax.Array, teacher: jax.Array, ids: jax.Array, values: Any, loss: Any) -> jax.Array:
    return objective.of_embeddings(Embeddings(*student), tuple(teacher), ids, values, loss)[0]


def _max_error(ours: Any, theirs: Any) -> float:
    """The largest difference of any value or gradient, relative to the largest entry of its array."""
    errors = jax.tree.map(lambda x, y: float(abs(x - y).max() / abs(y).max().clip(1e-30)), ours, theirs)
    return max(jax.tree.leaves(errors))

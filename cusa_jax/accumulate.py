"""Large batches on few devices: encode in micro-batches, compare the whole batch, and encode again for the gradient.

Gradient caching (GradCache, arXiv 2101.06983): a loss over similarities needs the features of all rows, but not
the activations behind them. They are dropped and computed again, micro-batch by micro-batch, once the gradient by
the features is known. The gradient is that of the whole batch, to rounding; the price is one more forward pass.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def in_micro_batches(encode: Callable[[Any], Any], rows: Any, count: int, mesh: Mesh | None = None) -> Any:
    """encode(rows), computed on `count` parts of the rows, one after another; encode may close over parameters.

    rows, and what encode returns: pytrees of arrays [B, …], in which no row depends on another; `count` times the
    number of devices divides B. mesh: the devices that the rows are split over. Parts are strided, so that each
    has its share of rows on every device and none moves.
    """
    if count == 1:
        return encode(rows)

    def split(x: jax.Array) -> jax.Array:
        parts = x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
        if mesh is None:
            return parts
        return lax.with_sharding_constraint(parts, NamedSharding(mesh, P(None, mesh.axis_names)))

    def join(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    # Inside a loop nothing can merge the second computation with the first, which prevent_cse guards against.
    part = jax.checkpoint(encode, prevent_cse=False)
    return jax.tree.map(join, lax.map(part, jax.tree.map(split, rows)))

"""Large batches on few devices: encode in micro-batches, compare the whole batch, and encode again for the gradient.

Gradient caching (GradCache, arXiv 2101.06983): a loss over similarities needs the features of all rows, but not
the activations behind them. They are dropped and computed again, micro-batch by micro-batch, once the gradient by
the features is known. The gradient is that of the whole batch, to rounding; the price is one more forward pass.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from cusa_jax.sharding import batch_sharding


def in_micro_batches(
    encode: Callable[[Any, Any], Any], rows: Any, count: int, mesh: Mesh | None = None
) -> Any:
    """encode(rows, 0), computed on `count` parts of the rows, one after another, as encode(part, its number).

    encode may close over parameters. rows, and what it returns: pytrees of arrays [B, …], in which no row depends on
    another; `count` times the number of devices divides B. mesh: the devices that the rows are split over. Parts are
    strided, so that each has its share of rows on every device and none moves.
    """
    if count == 1:
        return encode(rows, 0)

    def cut(x: jax.Array, number: jax.Array) -> jax.Array:
        part = lax.dynamic_index_in_dim(x.reshape(-1, count, *x.shape[1:]), number, axis=1, keepdims=False)
        return part if mesh is None else lax.with_sharding_constraint(part, batch_sharding(mesh))

    # Rows are cut inside: the loop would keep a copy of all of them, pixels included, for the backward pass.
    # And inside a loop nothing can merge the second computation with the first, which prevent_cse guards against.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def encode_part(number: jax.Array) -> Any:
        return encode(jax.tree.map(lambda x: cut(x, number), rows), number)

    def join(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    return jax.tree.map(join, lax.map(encode_part, jnp.arange(count)))

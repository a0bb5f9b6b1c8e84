"""Stored features as a teacher: a table on the devices, one row a sample, looked up inside the train step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cusa_jax import sharding
from cusa_jax.types import Teacher


def stored_teacher(name: str, features: np.ndarray, mesh: Mesh, dtype: str = "") -> Teacher:
    """An 'index' teacher: sample n has row n of features [N, D], which every process holds.

    dtype: of the table on the devices, where each has its part of the rows; "" keeps that of features.
    """
    table = _spread(features, mesh, jnp.dtype(dtype or features.dtype))
    return Teacher(name, table, functools.partial(look_up, mesh=mesh), "index")


def look_up(table: jax.Array, index: jax.Array, mesh: Mesh) -> jax.Array:
    """Rows float32 [B, D] of a table [N, D] for index int [B], all split by rows over the mesh.

    Each device gives the rows of the table that it has and zeros for the others, [B, D] for a moment; of the sums,
    exact as all terms but one are zero, each keeps its own rows.
    """
    axes = mesh.axis_names

    def local(table: jax.Array, index: jax.Array) -> jax.Array:
        index = jax.lax.all_gather(index, axes, tiled=True) - jax.lax.axis_index(axes) * len(table)
        mine = (index >= 0) & (index < len(table))
        rows = jnp.where(mine[:, None], table[jnp.where(mine, index, 0)], 0)
        return jax.lax.psum_scatter(rows, axes, tiled=True).astype(jnp.float32)

    split = P(axes)
    return jax.shard_map(local, mesh=mesh, in_specs=(split, split), out_specs=split)(table, index)


def _spread(features: np.ndarray, mesh: Mesh, dtype: jnp.dtype) -> jax.Array:
    """[N, D] on the mesh, rows split over it and padded with zeros to a number that it divides."""
    rows = sharding.round_up(len(features), mesh.size)

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        found = features[start:stop].astype(dtype)
        return np.pad(found, ((0, stop - start - len(found)), (0, 0)))

    return jax.make_array_from_callback((rows, features.shape[1]), sharding.batch_sharding(mesh), part)

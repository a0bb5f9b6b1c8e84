"""Stored features as a teacher: a table on the devices, one row a sample, looked up inside the train step."""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cusa_jax import sharding
from cusa_jax.types import Teacher


class Table(Protocol):
    """Features [N, D] on the host, of which a slice of the rows is read at a time: an array, or a bank's file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def stored_teacher(name: str, features: Table, mesh: Mesh, dtype: str = "") -> tuple[Teacher, jax.Array]:
    """An 'index' teacher, and its parameters: the table on the mesh, whose row n is the feature of sample n.

    features: float [N, D], which every process can read. dtype: of the table on the devices, each of which holds
    a part of the rows; "" keeps the dtype of features.
    """
    table = _spread(features, mesh, jnp.dtype(dtype or features.dtype))
    return Teacher(name, functools.partial(look_up, mesh=mesh), "index"), table


def look_up(table: jax.Array, index: jax.Array, mesh: Mesh) -> jax.Array:
    """Rows float32 [B, D] of a table [N, D] for index int [B], all split by rows over the mesh.

    Each device looks up the rows that its part of the table holds, and takes zeros for the others, [B, D] for a
    moment. These are summed over the devices, exactly, as all terms but one are zero, and scattered by rows.
    """
    axes = mesh.axis_names

    def local(table: jax.Array, index: jax.Array) -> jax.Array:
        index = jax.lax.all_gather(index, axes, tiled=True) - jax.lax.axis_index(axes) * len(table)
        held = (index >= 0) & (index < len(table))
        rows = jnp.where(held[:, None], table[jnp.where(held, index, 0)], 0)
        return jax.lax.psum_scatter(rows, axes, tiled=True).astype(jnp.float32)

    split = P(axes)
    return jax.shard_map(local, mesh=mesh, in_specs=(split, split), out_specs=split)(table, index)


def _spread(features: Table, mesh: Mesh, dtype: jnp.dtype) -> jax.Array:
    """[N, D] on the mesh, rows split over it and padded with zeros to a number that it divides."""
    rows = sharding.round_up(features.shape[0], mesh.size)

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        shard = features[start:stop].astype(dtype)
        return np.pad(shard, ((0, stop - start - len(shard)), (0, 0)))

    return jax.make_array_from_callback((rows, features.shape[1]), sharding.batch_sharding(mesh), part)

"""Sharding: one mesh, the batch split over all of it, parameters split over its `fsdp` axis.

`jit` with NamedSharding does the rest, on one device, several, or several hosts.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cusa_jax.distributed import together
from cusa_jax.errors import InputError


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh ('data', 'fsdp') over all devices, or over some.

    Axes are Auto: transformers' Flax models fail on Explicit ones. Raises InputError where fsdp does not divide.
    """
    count = len(devices or jax.devices())
    if count % fsdp:
        raise InputError(f"config.sharding.fsdp={fsdp} does not divide the {count} devices")
    return jax.make_mesh((count // fsdp, fsdp), ("data", "fsdp"), (AxisType.Auto,) * 2, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over every device."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def param_shardings(params: Any, mesh: Mesh) -> Any:
    """One NamedSharding per leaf: the largest axis that `fsdp` divides is split over it, the rest replicated."""
    size = mesh.shape["fsdp"]

    def one(leaf: Any) -> NamedSharding:
        axes = [n for n, length in enumerate(leaf.shape) if size > 1 and length % size == 0]
        spec: list[str | None] = [None] * len(leaf.shape)
        if axes:
            spec[max(axes, key=lambda n: leaf.shape[n])] = "fsdp"
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(one, params)


def abstract_params(shapes: Any, mesh: Mesh) -> Any:
    """ShapeDtypeStructs that say where `put_params` would put arrays of these shapes."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        param_shardings(shapes, mesh),
    )


def put_params(params: Any, mesh: Mesh) -> Any:
    """Host arrays -> arrays on the mesh; every process holds the same values. What is on it already stays."""

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and getattr(leaf.sharding, "mesh", None) == mesh:
            return leaf
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, params, param_shardings(params, mesh))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's rows of every array -> global arrays, split over the mesh."""
    rows = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), batch)


def put_rows(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """Rows that every process holds alike -> one global array, split over the mesh."""
    return jax.make_array_from_callback(rows.shape, batch_sharding(mesh), lambda index: rows[index])


def fetch(x: jax.Array) -> np.ndarray:
    """A global array on every host."""
    if x.is_fully_addressable:
        return np.asarray(x)
    assert isinstance(x.sharding, NamedSharding)
    return np.asarray(_on_every_device(x.sharding.mesh)(x).addressable_data(0))


@functools.cache
def _on_every_device(mesh: Mesh) -> Any:
    return together(jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P())))


def num_bytes(tree: Any) -> int:
    """Of all arrays of a tree together, or of their shapes, on however many devices they lie."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def round_up(rows: int, devices: int) -> int:
    """The smallest number of rows >= `rows` that splits evenly over the devices."""
    return -(-rows // devices) * devices

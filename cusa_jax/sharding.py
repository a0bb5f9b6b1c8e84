"""Where arrays live: one mesh, the batch split over all of it, parameters split over its `fsdp` axis.

`jit` with NamedSharding does the rest, on one device, several, or several hosts.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cusa_jax.errors import InputError


def make_mesh(fsdp: int = 1) -> Mesh:
    """Mesh ('data', 'fsdp') over all devices. Axes are Auto: transformers' Flax models fail on Explicit ones."""
    devices = jax.device_count()
    if devices % fsdp:
        raise InputError(f"sharding.fsdp={fsdp} does not divide the {devices} devices")
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


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


def put_params(params: Any, mesh: Mesh) -> Any:
    """Host arrays -> arrays on the mesh; every process holds the same values. What is on it already stays."""

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and getattr(leaf.sharding, "mesh", None) == mesh:
            return leaf
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, params, param_shardings(params, mesh))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's rows of every array -> global arrays, split over the mesh. Scalars are replicated."""
    rows = batch_sharding(mesh)

    def one(x: np.ndarray) -> jax.Array:
        sharding = rows if np.ndim(x) else NamedSharding(mesh, P())
        return jax.make_array_from_process_local_data(sharding, np.asarray(x))

    return jax.tree.map(one, batch)


def put_rows(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """Rows that every process holds alike -> one global array, split over the mesh."""
    return jax.make_array_from_callback(rows.shape, batch_sharding(mesh), lambda index: rows[index])


def fetch(x: jax.Array) -> np.ndarray:
    """A global array on every host."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def round_up(rows: int, devices: int) -> int:
    """The smallest number of rows >= `rows` that splits evenly over the devices."""
    return -(-rows // devices) * devices

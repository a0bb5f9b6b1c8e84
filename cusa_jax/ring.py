"""Every row meets every column, wherever they are: tiles on one device, and a ring over several.

On several devices each keeps its own rows, while columns, and whatever is gathered for them, travel round the ring.
A mesh of None is one device.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from jax import lax, shard_map
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

Tree: TypeAlias = Any  # a pytree of arrays
# (row tile, column tile, its row state, its column state, total) -> the last three, updated.
Step: TypeAlias = Callable[[Tree, Tree, Tree, Tree, Tree], tuple[Tree, Tree, Tree]]


def sweep(
    mesh: Mesh | None, step: Step, rows: Tree, columns: Tree, row_state: Tree, column_state: Tree, total: Tree
) -> tuple[Tree, Tree, Tree]:
    """Takes `step` once for each row tile of this device and each column tile of every device.

    rows, columns and their states: [tiles, …]; total: one for all. Row states stay, and column states travel with
    their columns, back to where they started. Returns the three states.
    """
    if mesh is None:
        return _meet(step, rows, columns, row_state, column_state, total)
    ring = [(device, (device + 1) % mesh.size) for device in range(mesh.size)]

    def turn(carry: Tree, _: None) -> tuple[Tree, None]:
        (columns, column_state), row_state, total = carry
        row_state, column_state, total = _meet(step, rows, columns, row_state, column_state, total)
        moved = lax.ppermute((columns, column_state), mesh.axis_names, ring)
        return (moved, row_state, total), None

    start = ((columns, column_state), row_state, total)
    ((_, column_state), row_state, total), _ = lax.scan(turn, start, length=mesh.size)
    return row_state, column_state, total


def _meet(
    step: Step, rows: Tree, columns: Tree, row_state: Tree, column_state: Tree, total: Tree
) -> tuple[Tree, Tree, Tree]:
    """All row tiles with all column tiles that are on this device now."""

    def each_row(carry: Tree, row: Tree) -> tuple[Tree, Tree]:
        def each_column(carry: Tree, column: Tree) -> tuple[Tree, Tree]:
            (row_state, total), (column, column_state) = carry, column
            row_state, column_state, total = step(row[0], column, row_state, column_state, total)
            return (row_state, total), column_state

        column_state, total = carry
        (row_state, total), column_state = lax.scan(each_column, (row[1], total), (columns, column_state))
        return (column_state, total), row_state

    (column_state, total), row_state = lax.scan(each_row, (column_state, total), (rows, row_state))
    return row_state, column_state, total


def on_each_device(
    mesh: Mesh | None, function: Callable, ins: tuple[P, ...], outs: tuple[P, ...]
) -> Callable[..., Any]:
    """`function` run by every device on its own rows. ins, outs: shardings, of `row_sharding` or P() for all alike."""
    if mesh is None:
        return function
    return shard_map(function, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)


def row_sharding(mesh: Mesh | None) -> P:
    """Of what has rows: the first axis is split over all devices."""
    return P(mesh.axis_names if mesh else None)


def summed(mesh: Mesh | None, x: Tree) -> Tree:
    """The sum over devices."""
    return x if mesh is None else lax.psum(x, mesh.axis_names)

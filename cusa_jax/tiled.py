"""The losses without ever holding a B×B matrix: O(B·d) memory, the same numbers to rounding.

A term is given as problems (losses/problem.py), whose rows need only sums over their columns: they are gathered tile by
tile, on several devices in a ring (ring.py). The backward pass computes the tiles again and differentiates each. All
problems share the tiles, so that the teachers' similarities, whose features can be far wider than the student's, are
computed once for all.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cusa_jax import ring, similarity
from cusa_jax.losses.problem import PAIRS, Problem, RowSums, Tile
from cusa_jax.losses.term import Scalars
from cusa_jax.types import Embeddings, SoftLabels

Features: TypeAlias = dict[str, jax.Array]  # unit vectors [..., t, E] by the names of `Embeddings`
TeacherFeatures: TypeAlias = tuple[jax.Array, jax.Array]  # of images [..., t, D] and of texts [..., t, D']


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiled loss is specialised to. tile: the largest side of a tile. mesh: rows are split over all of it;
    None is one device."""

    problems: tuple[Problem, ...]
    tile: int
    mesh: Mesh | None


@struct.dataclass
class Samples:
    """What tiles are computed from: [N, …] of a batch, [t, …] of a tile, [tiles, t, …] on a device.

    teacher: None where there are no soft labels. ids: int [N]. counts: bool [N], not padding.
    """

    student: Features
    teacher: TeacherFeatures | None
    ids: jax.Array
    counts: jax.Array


def terms(
    problems: Mapping[str, tuple[Problem, ...]],
    embeddings: Embeddings,
    teacher_features: TeacherFeatures | None,
    ids: jax.Array | None,
    scalars: Scalars,
    tile: int,
    mesh: Mesh | None = None,
) -> dict[str, jax.Array]:
    """The value of each term, given as its problems: their mean.

    embeddings [B, E] and teacher features ([B, D], [B, D']) need not be normalised; ids: int [B] or None. tile: the
    largest side of a tile. mesh: the devices that the rows are split over, whose number divides B. Differentiable in
    embeddings and scalars, the teachers are frozen; computes in float32 or wider.
    """
    unit = vars(similarity.student_directions(embeddings))
    plan = Plan(sum(problems.values(), ()), tile, mesh if mesh and mesh.size > 1 else None)
    student = {name: unit[name] for problem in plan.problems for name in PAIRS[problem.pair]}
    teacher = None
    if teacher_features is not None:
        teacher = (
            similarity.teacher_directions(teacher_features[0]),
            similarity.teacher_directions(teacher_features[1]),
        )
    ids = jnp.arange(len(embeddings.cross_image)) if ids is None else ids
    means = iter(row_means(plan, dict(scalars), student, teacher, ids))
    return {name: jnp.mean(jnp.stack([next(means) for _ in own])) for name, own in problems.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def row_means(
    plan: Plan, scalars: Scalars, student: Features, teacher: TeacherFeatures | None, ids: jax.Array
) -> tuple[jax.Array, ...]:
    """The mean over the rows of a batch, of each problem. student, teacher: unit vectors; ids: int [B]."""
    return _forward(plan, scalars, student, teacher, ids)[0]


# Compiled once per plan, so that callers who do not jit are served too.
@functools.partial(jax.jit, static_argnums=0)
def _forward(
    plan: Plan, scalars: Scalars, student: Features, teacher: TeacherFeatures | None, ids: jax.Array
) -> tuple[tuple[jax.Array, ...], Any]:
    """The means, and what the backward pass needs: the arguments and the sums of all rows."""
    batch = len(ids)

    def on_device(scalars: Scalars, *arrays: Any) -> tuple[Any, Any]:
        samples = _tiles(plan, *arrays)
        zeros = jnp.zeros(samples.ids.shape, jnp.result_type(*student.values()))

        def add_tile(rows: Samples, columns: Samples, sums: Any, *_: None) -> tuple[Any, None, None]:
            tile = _tile(plan, rows, columns)
            added = [p.add(own, tile, scalars) for p, own in zip(plan.problems, sums, strict=True)]
            return tuple(added), None, None

        start = tuple(problem.start(zeros) for problem in plan.problems)
        sums, _, _ = ring.sweep(plan.mesh, add_tile, samples, samples, start, None, None)
        return ring.summed(plan.mesh, _totals(plan, sums, samples.counts, batch)), sums

    rows, shared = ring.row_sharding(plan.mesh), P()
    run = ring.on_each_device(plan.mesh, on_device, (shared, rows, rows, rows), (shared, rows))
    totals, sums = run(scalars, student, teacher, ids)
    return tuple(total / batch for total in totals), (scalars, student, teacher, ids, sums)


@functools.partial(jax.jit, static_argnums=0)
def _backward(
    plan: Plan, saved: Any, cotangents: tuple[jax.Array, ...]
) -> tuple[Scalars, Features, None, None]:
    """Gradients by scalars and student; teachers and ids have none."""
    batch = len(saved[3])

    def on_device(
        scalars: Scalars, student: Features, teacher: Any, ids: Any, sums: Any, weights: Any
    ) -> Any:
        samples = _tiles(plan, student, teacher, ids)
        _, pull = jax.vjp(lambda sums: _totals(plan, sums, samples.counts, batch), sums)
        (by_sums,) = pull(weights)
        # Maxima are final now: from them, tiles add up.
        empty = tuple(RowSums(own.maxima, jax.tree.map(jnp.zeros_like, own.sums)) for own in sums)

        def add_gradient(
            row: tuple[Samples, Any, Any], columns: Samples, by_rows: Any, by_columns: Any, by_scalars: Any
        ) -> tuple[Any, Any, Any]:
            rows, empty, by_sums = row

            def sums_of_tile(row_student: Features, column_student: Features, scalars: Scalars) -> Any:
                tile = _tile(
                    plan,
                    dataclasses.replace(rows, student=row_student),
                    dataclasses.replace(columns, student=column_student),
                )
                return tuple(p.add(own, tile, scalars) for p, own in zip(plan.problems, empty, strict=True))

            _, pull = jax.vjp(sums_of_tile, rows.student, columns.student, scalars)
            return _added((by_rows, by_columns, by_scalars), pull(by_sums))

        zeros = jax.tree.map(jnp.zeros_like, (samples.student, samples.student, scalars))
        row_tiles = (samples, empty, by_sums)
        by_rows, by_columns, by_scalars = ring.sweep(plan.mesh, add_gradient, row_tiles, samples, *zeros)
        by_student = jax.tree.map(
            lambda tiles, like: tiles.reshape(-1, like.shape[-1])[: len(like)],
            _added(by_rows, by_columns),
            student,
        )
        return ring.summed(plan.mesh, by_scalars), by_student

    rows, shared = ring.row_sharding(plan.mesh), P()
    ins = (shared, rows, rows, rows, rows, shared)
    run = ring.on_each_device(plan.mesh, on_device, ins, (shared, rows))
    by_scalars, by_student = run(*saved, tuple(weight / batch for weight in cotangents))
    return by_scalars, by_student, None, None


row_means.defvjp(_forward, _backward)


def _totals(plan: Plan, sums: Any, counts: jax.Array, batch: int) -> tuple[jax.Array, ...]:
    """Each problem's sum over the rows of a device, given the sums of every row."""
    values = [problem.value(own.sums, batch) for problem, own in zip(plan.problems, sums, strict=True)]
    return tuple(jnp.where(counts, value, 0).sum() for value in values)


def _tile(plan: Plan, rows: Samples, columns: Samples) -> Tile:
    """What the problems see of a row tile and a column tile."""
    student = {}
    for pair in {problem.pair: None for problem in plan.problems}:
        of_rows, of_columns = PAIRS[pair]
        student[pair] = _cosines(rows.student[of_rows], columns.student[of_columns])
    labels = None
    if rows.teacher is not None and columns.teacher is not None:
        labels = SoftLabels(*map(_cosines, rows.teacher, columns.teacher))
    return Tile(student, labels, rows.ids[:, None] == columns.ids, columns.counts)


def _tiles(plan: Plan, student: Features, teacher: TeacherFeatures | None, ids: jax.Array) -> Samples:
    """The rows of a device in tiles as equal as can be, the last one padded."""
    samples = Samples(student, teacher, ids, jnp.ones(len(ids), bool))
    tiles = -(-len(ids) // plan.tile)
    side = -(-len(ids) // tiles)

    def cut(x: jax.Array) -> jax.Array:
        padding = [(0, tiles * side - len(x)), *[(0, 0)] * (x.ndim - 1)]
        return jnp.pad(x, padding).reshape(tiles, side, *x.shape[1:])

    return jax.tree.map(cut, samples)


def _cosines(rows: jax.Array, columns: jax.Array) -> jax.Array:
    return jnp.einsum("id,jd->ij", rows, columns, precision=lax.Precision.HIGHEST)


def _added(x: Any, y: Any) -> Any:
    return jax.tree.map(jnp.add, x, y)

"""The losses of losses.py without ever holding a B×B matrix: O(B·d) memory, the same numbers to rounding.

Every term is one problem in two directions: a row of logits b = S/τ against soft targets softmax(a), where
a = T/τ_t for CSA and USA, and for the contrastive loss a = 0 at the positives and −∞ elsewhere. The divergence
needs only sums over the row, gathered column tile by column tile (online softmax, as in FlashAttention and, for
the contrastive loss, in Inf-CL, arXiv 2410.17243). With a and b counted from their maxima, as always here,

    A = Σ exp(a)    B = Σ exp(b)    U = Σ exp(a) (a − b)    KL = U/A − log A + log B

and the cross-entropy has neither the a in U nor log A.

The backward pass computes the tiles again: ∂/∂b = softmax(b) − softmax(a). All problems share the tiles, so that
the teachers' similarities, whose features can be far wider than the student's, are computed once for CSA and USA.
On several devices each keeps its own rows, while columns, and in the backward pass their gradients, travel round.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cusa_jax import losses, similarity, temperatures
from cusa_jax.types import Embeddings, SoftLabels

# The logit of what does not count. Finite, or a tile without a single positive would compute −∞ − (−∞).
NOTHING = -1e30
# Products of student features: image→text, text→image, image→image, text→text. Where each finds its columns.
PARTNER = (1, 0, 2, 3)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One direction of one term: which product of student features, against which targets, by which divergence."""

    product: int  # index into PARTNER; the teacher of its modality is product % 2
    targets: losses.Targets | Literal["ids"]
    divergence: losses.Divergence


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiled loss is specialised to. mesh: rows are split over all of it; None is one device."""

    problems: tuple[Problem, ...]
    tile: int
    mesh: Mesh | None

    @property
    def kl(self) -> jax.Array:
        """bool [K, 1, 1]: whether a problem's divergence is KL, for tiles of all K problems."""
        return jnp.array([problem.divergence == "kl" for problem in self.problems])[:, None, None]


@struct.dataclass
class Samples:
    """What tiles are computed from, rows first: [N, …] of a batch, [t, …] of a tile, [tiles, t, …] on a device.

    student: unit vectors [N, S, E], S = 4 (cross image, cross text, uni image, uni text), or the first 2.
    teacher: unit vectors (image [N, D], text [N, D']), or None. ids: int [N]. counts: bool [N], not padding.
    """

    student: jax.Array
    teacher: tuple[jax.Array, jax.Array] | None
    ids: jax.Array
    counts: jax.Array


@struct.dataclass
class RowSums:
    """A, B, U of a row over the columns met so far, and the maxima that they are counted from: each [K, t]."""

    max_a: jax.Array
    sum_a: jax.Array
    max_b: jax.Array
    sum_b: jax.Array
    u: jax.Array


def terms(
    embeddings: Embeddings,
    teacher_features: tuple[jax.Array, jax.Array] | None,
    ids: jax.Array | None,
    taus: dict[str, jax.Array],
    loss: Any,
    mesh: Mesh | None = None,
) -> dict[str, jax.Array]:
    """{'contrastive', and with teachers 'csa', 'usa'}: what losses.py gives on matrices, without weights.

    embeddings [B, E] and teacher features ([B, D], [B, D']) need not be normalised; ids: int [B] or None; taus:
    clamped; loss: `config.loss`, whose `tile` is the largest side of a tile. mesh: the devices that the rows are
    split over, whose number divides B. Differentiable in embeddings and taus, the teachers are frozen; computes
    in float32 or wider. An unknown mode raises InputError.
    """
    problems = {"contrastive": tuple(Problem(n, "ids", "cross_entropy") for n in (0, 1))}
    arguments = {"contrastive": {"tau_image": taus["contrastive"], "tau_text": taus["contrastive"]}}
    unit = similarity.student_directions(embeddings)
    student = [unit.cross_image, unit.cross_text]
    teacher = None
    if teacher_features is not None:
        problems["csa"] = tuple(Problem(n, loss.csa.targets, loss.csa.divergence) for n in (0, 1))
        problems["usa"] = tuple(Problem(n, "each", loss.usa.divergence) for n in (2, 3))
        arguments |= {name: temperatures.arguments(taus, loss, name) for name in ("csa", "usa")}
        student += [unit.uni_image, unit.uni_text]
        image, text = map(similarity.teacher_directions, teacher_features)
        teacher = image, text

    def stacked(kind: str) -> jax.Array:
        frozen = jnp.ones((), student[0].dtype)  # the contrastive targets have no temperature
        names = (f"{kind}_image", f"{kind}_text")
        return jnp.stack([arguments[term].get(name, frozen) for term in problems for name in names])

    batch = len(student[0])
    plan = Plan(sum(problems.values(), ()), loss.tile, mesh if mesh and mesh.size > 1 else None)
    ids = jnp.arange(batch) if ids is None else ids
    rows = row_means(plan, stacked("tau"), stacked("teacher_tau"), jnp.stack(student, axis=1), teacher, ids)
    directions = dict(zip(problems, rows.reshape(-1, 2), strict=True))
    return {
        term: losses.both(*directions[term])
        / losses.row_divisor(batch, problem.divergence, loss[term].reduction)
        for term, (problem, _) in problems.items()
    }


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def row_means(
    plan: Plan,
    tau: jax.Array,
    teacher_tau: jax.Array,
    student: jax.Array,
    teacher: tuple[jax.Array, jax.Array] | None,
    ids: jax.Array,
) -> jax.Array:
    """The divergence of each of K problems, summed over columns, mean over rows: [K].

    tau, teacher_tau: [K]; student: unit vectors [B, S, E]; teacher: unit vectors [B, D], [B, D']; ids: int [B].
    """
    return _forward(plan, tau, teacher_tau, student, teacher, ids)[0]


# Compiled once per plan, so that callers who do not jit are served too.
@functools.partial(jax.jit, static_argnums=0)
def _forward(plan, tau, teacher_tau, student, teacher, ids):
    def on_device(tau, teacher_tau, student, teacher, ids):
        samples = _tiles(plan, student, teacher, ids)
        tiles, side = samples.ids.shape
        zero = jnp.zeros((tiles, len(plan.problems), side), student.dtype)
        start = RowSums(max_a=zero + NOTHING, sum_a=zero, max_b=zero + NOTHING, sum_b=zero, u=zero)

        def add_tile(rows, columns, sums, _, __):
            return _add_tile(plan, sums, *_logits(plan, rows, columns, tau, teacher_tau)), None, None

        sums, _, _ = _sweep(plan, add_tile, samples, samples, start, None, None)
        # One logarithm of the quotient: where a ≈ b, the two would cancel all but their rounding.
        value = sums.u / sums.sum_a + jnp.log(sums.sum_b / jnp.where(plan.kl[:, :, 0], sums.sum_a, 1))
        total = jnp.where(samples.counts[:, None], value, 0).sum(axis=(0, 2))
        return _over_devices(plan, total), (sums, value)

    rows, shared = _specs(plan)
    run = _on_devices(plan, on_device, (shared, shared, rows, rows, rows), (shared, rows))
    totals, results = run(tau, teacher_tau, student, teacher, ids)
    return totals / len(student), (tau, teacher_tau, student, teacher, ids, results)


@functools.partial(jax.jit, static_argnums=0)
def _backward(plan, saved, cotangents):
    def on_device(tau, teacher_tau, student, teacher, ids, results, weights):
        samples = _tiles(plan, student, teacher, ids)

        def add_gradient(rows, columns, by_rows, by_columns, by_taus):
            a, b = _logits(plan, rows[0], columns, tau, teacher_tau)
            by_a, by_b, a, b = _logit_gradients(plan, *rows, weights, a, b)
            products = [0.0] * len(PARTNER)
            for k, problem in enumerate(plan.problems):
                products[problem.product] += by_b[k] / tau[k]
            by_products = jnp.stack(products[: student.shape[1]])
            by_rows += _einsum("kij,jke->ike", by_products, _partners(columns.student))
            by_columns += _partners(_einsum("kij,ike->jke", by_products, rows[0].student))
            # The gradients of a row sum to zero, so a and b may be counted from anywhere: best from their maxima.
            by_tau = by_taus[0] - (by_b * b).sum(axis=(1, 2)) / tau
            by_teacher_tau = by_taus[1] - (by_a * a).sum(axis=(1, 2)) / teacher_tau
            return by_rows, by_columns, (by_tau, by_teacher_tau)

        zeros, start = jnp.zeros_like(samples.student), (jnp.zeros_like(tau), jnp.zeros_like(tau))
        by_rows, by_columns, by_taus = _sweep(
            plan, add_gradient, (samples, results), samples, zeros, zeros, start
        )
        by_student = (by_rows + by_columns).reshape(-1, *student.shape[1:])[: len(student)]
        return *_over_devices(plan, by_taus), by_student

    rows, shared = _specs(plan)
    ins = (shared, shared, rows, rows, rows, rows, shared)
    run = _on_devices(plan, on_device, ins, (shared, shared, rows))
    batch = len(saved[2])
    return *run(*saved, cotangents[:, None, None] / batch), None, None


row_means.defvjp(_forward, _backward)


def _logits(plan: Plan, rows: Samples, columns: Samples, tau, teacher_tau) -> tuple[jax.Array, jax.Array]:
    """a and b of all problems on one tile: each [K, t, t]."""
    products = _einsum("ike,jke->kij", rows.student, _partners(columns.student))
    positive = jnp.where(rows.ids[:, None] == columns.ids, 0, jnp.asarray(NOTHING, products.dtype))
    targets: dict[str, Any] = {"ids": (positive, positive)}
    if rows.teacher is not None and columns.teacher is not None:
        pairs = zip(rows.teacher, columns.teacher, strict=True)
        labels = SoftLabels(*(_einsum("id,jd->ij", x, y) for x, y in pairs))
        targets |= {
            p.targets: losses.targets_of(labels, p.targets) for p in plan.problems if p.targets != "ids"
        }
    a = jnp.stack([targets[p.targets][p.product % 2] for p in plan.problems]) / teacher_tau[:, None, None]
    b = jnp.stack([products[p.product] for p in plan.problems]) / tau[:, None, None]
    return jnp.where(columns.counts, a, NOTHING), jnp.where(columns.counts, b, NOTHING)


def _add_tile(plan: Plan, sums: RowSums, a: jax.Array, b: jax.Array) -> RowSums:
    max_a, max_b = jnp.maximum(sums.max_a, a.max(axis=-1)), jnp.maximum(sums.max_b, b.max(axis=-1))
    lost_a, lost_b = sums.max_a - max_a, sums.max_b - max_b
    a, b = a - max_a[..., None], b - max_b[..., None]
    w, keep = jnp.exp(a), jnp.exp(lost_a)
    recounted = sums.u + sums.sum_a * (jnp.where(plan.kl[:, :, 0], lost_a, 0) - lost_b)
    return RowSums(
        max_a=max_a,
        sum_a=keep * sums.sum_a + w.sum(axis=-1),
        max_b=max_b,
        sum_b=jnp.exp(lost_b) * sums.sum_b + jnp.exp(b).sum(axis=-1),
        u=keep * recounted + (w * (jnp.where(plan.kl, a, 0) - b)).sum(axis=-1),
    )


def _logit_gradients(plan: Plan, rows: Samples, results: tuple[RowSums, jax.Array], weights, a, b):
    """Gradients by a and by b on one tile, and a and b counted from their maxima: each [K, t, t].

    results: the sums and the divergences of the rows. weights: of a row in each problem, [K, 1, 1].
    """
    sums, value = jax.tree.map(lambda x: x[..., None], results)
    a, b = a - sums.max_a, b - sums.max_b
    q, p = jnp.exp(a) / sums.sum_a, jnp.exp(b) / sums.sum_b
    weights = weights * rows.counts[:, None]
    surprise = jnp.where(plan.kl, a - jnp.log(sums.sum_a), 0) - (b - jnp.log(sums.sum_b))
    return weights * q * (surprise - value), weights * (p - q), a, b


def _sweep(
    plan: Plan, step: Callable, rows: Any, columns: Any, row_state: Any, column_state: Any, total: Any
):
    """Every row tile of this device meets every column tile of every device.

    step(row tile, column tile, row state, column state, total) -> the last three, updated. Row states stay, and
    column states travel round the ring of devices with their columns, back to where they started.
    """

    def meet(columns, row_state, column_state, total):
        def each_row(carry, row):
            def each_column(carry, column):
                (row_state, total), (column, column_state) = carry, column
                row_state, column_state, total = step(row[0], column, row_state, column_state, total)
                return (row_state, total), column_state

            column_state, total = carry
            (row_state, total), column_state = lax.scan(each_column, (row[1], total), (columns, column_state))
            return (column_state, total), row_state

        (column_state, total), row_state = lax.scan(each_row, (column_state, total), (rows, row_state))
        return row_state, column_state, total

    if plan.mesh is None:
        return meet(columns, row_state, column_state, total)
    devices = plan.mesh.size
    ring = [(device, (device + 1) % devices) for device in range(devices)]

    def turn(carry, _):
        (columns, column_state), row_state, total = carry
        row_state, column_state, total = meet(columns, row_state, column_state, total)
        moved = lax.ppermute((columns, column_state), plan.mesh.axis_names, ring)
        return (moved, row_state, total), None

    start = ((columns, column_state), row_state, total)
    ((_, column_state), row_state, total), _ = lax.scan(turn, start, length=devices)
    return row_state, column_state, total


def _tiles(plan: Plan, student: jax.Array, teacher: Any, ids: jax.Array) -> Samples:
    """The rows of a device in tiles as equal as can be, the last one padded."""
    samples = Samples(student, teacher, ids, jnp.ones(len(ids), bool))
    tiles = -(-len(ids) // plan.tile)
    side = -(-len(ids) // tiles)

    def cut(x: jax.Array) -> jax.Array:
        padding = [(0, tiles * side - len(x)), *[(0, 0)] * (x.ndim - 1)]
        return jnp.pad(x, padding).reshape(tiles, side, *x.shape[1:])

    return jax.tree.map(cut, samples)


def _partners(student: jax.Array) -> jax.Array:
    """[t, S, E] -> the features that each kind is compared with. Its own inverse."""
    return student[:, jnp.array(PARTNER[: student.shape[1]])]


def _einsum(subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, x, y, precision=lax.Precision.HIGHEST)


def _specs(plan: Plan) -> tuple[P, P]:
    """Shardings of what has rows, and of what all devices share."""
    return P(plan.mesh.axis_names if plan.mesh else None), P()


def _on_devices(plan: Plan, function: Callable, ins: tuple[P, ...], outs: tuple[P, ...]) -> Callable:
    if plan.mesh is None:
        return function
    return jax.shard_map(function, mesh=plan.mesh, in_specs=ins, out_specs=outs, check_vma=False)


def _over_devices(plan: Plan, x: Any) -> Any:
    return x if plan.mesh is None else lax.psum(x, plan.mesh.axis_names)

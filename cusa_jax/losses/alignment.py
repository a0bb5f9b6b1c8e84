"""Softmax distributions of similarities, and how far a student's is from its soft labels.

Notation: S [..., B, B] student similarities, rows = queries; T = teacher similarities; τ, τ_t = student and teacher
temperatures. Q = softmax(T/τ_t) are the soft labels, P = softmax(S/τ) the student's distribution, both over a row.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from cusa_jax.errors import InputError
from cusa_jax.types import SoftLabels

Reduction = Literal["mean", "sum"]
Divergence = Literal["kl", "cross_entropy"]
Targets = Literal["each", "add", "dot"]


def align(
    similarity: jax.Array,
    teacher: jax.Array,
    tau: jax.Array | float,
    teacher_tau: jax.Array | float,
    divergence: Divergence = "kl",
    reduction: Reduction = "sum",
) -> jax.Array:
    """Mean over rows of KL(Q ‖ P), or of the soft cross-entropy −Σ Q log P (reference unire/model.py:255-282).

    `reduction` matters to the cross-entropy alone: 'mean' divides it by the row length; KL always sums a row.
    """
    check_mode("divergence", divergence, Divergence)
    check_mode("reduction", reduction, Reduction)
    log_q, log_p = log_softmax(teacher, teacher_tau), log_softmax(similarity, tau)
    if divergence == "kl":
        return (jnp.exp(log_q) * (log_q - log_p)).sum(axis=-1).mean()
    return cross_entropy(jnp.exp(log_q), log_p, reduction)


def targets_of(labels: SoftLabels, targets: Targets) -> tuple[jax.Array, jax.Array]:
    """Teacher similarities that image→text and text→image are aligned with (see `csa`)."""
    check_mode("targets", targets, Targets)
    if targets == "each":
        return labels.image, labels.text
    if targets == "add":
        joint = (labels.image + labels.text) / 2
    else:
        joint = jnp.sqrt(jnp.maximum(labels.image, 0) * jnp.maximum(labels.text, 0))
    return joint, joint


def log_softmax(similarity: jax.Array, tau: jax.Array | float) -> jax.Array:
    return jax.nn.log_softmax(similarity / tau, axis=-1)


def cross_entropy(target: jax.Array, log_p: jax.Array, reduction: Reduction) -> jax.Array:
    return -(target * log_p).sum(axis=-1).mean() / row_divisor(log_p.shape[-1], "cross_entropy", reduction)


def row_divisor(length: int, divergence: Divergence, reduction: Reduction) -> int:
    """What a row's sum is divided by: its length under 'mean' reduction, which KL ignores."""
    check_mode("divergence", divergence, Divergence)
    check_mode("reduction", reduction, Reduction)
    return length if divergence == "cross_entropy" and reduction == "mean" else 1


def both(image_side: jax.Array, text_side: jax.Array) -> jax.Array:
    """A loss from its two directions."""
    return (image_side + text_side) / 2


def positives(image_text: jax.Array, ids: jax.Array | None) -> jax.Array:
    """bool [..., B, B], broadcastable to S: which pairs belong together; without ids, the diagonal.

    ids: int [..., B]; rows with equal ids are positives of each other. Raises InputError for another shape.
    """
    if ids is None:
        return jnp.eye(image_text.shape[-1], dtype=bool)
    if ids.shape != image_text.shape[:-1]:
        raise InputError(
            f"ids of shape {ids.shape} for similarities of {image_text.shape}: need {image_text.shape[:-1]}"
        )
    return ids[..., :, None] == ids[..., None, :]


def check_mode(name: str, value: str, choices: Any) -> None:
    """Raises InputError for a word that is none of a Literal's."""
    if value not in get_args(choices):
        raise InputError(f"{name}={value!r} is none of {', '.join(get_args(choices))}")


def transposed(matrix: jax.Array) -> jax.Array:
    return matrix.swapaxes(-1, -2)

"""CUSA's losses as the paper writes them: pure functions of similarities, soft labels and temperatures.

Notation: S [..., B, B] student similarities, rows = queries; T = teacher similarities; τ, τ_t = student and teacher
temperatures. Q = softmax(T/τ_t) are the soft labels, P = softmax(S/τ) the student's distribution, both over a row.
Leading axes are groups of local negatives (see similarity.py); every loss averages over them.
All is differentiable in S, τ and τ_t; T is frozen by `similarity.teacher`. float32 in, float32 out (float64 too).
An unknown mode raises InputError.

    loss = contrastive(S, ids, tau) + α csa(S, T, …) + β usa(S_II, S_TT, T, …)
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from cusa_jax.errors import InputError
from cusa_jax.types import SoftLabels

Reduction = Literal["mean", "sum"]
Divergence = Literal["kl", "cross_entropy"]
Targets = Literal["each", "add", "dot"]


def contrastive(
    image_text: jax.Array, ids: jax.Array | None, tau: jax.Array | float, reduction: Reduction = "sum"
) -> jax.Array:
    """InfoNCE in both directions with joint positives (reference unire/model.py:234-253).

    image_text: S [..., B, B]. ids: int [..., B]; rows with equal ids are positives of each other and share the
    target mass equally; None means that only the diagonal is positive.
    reduction: 'sum' is InfoNCE; 'mean' divides it by B once more, which is what the paper's weights assume.
    Returns a scalar: the mean of the image-to-text and text-to-image losses.
    """
    batch = image_text.shape[-1]
    if ids is not None and ids.shape != image_text.shape[:-1]:
        raise InputError(
            f"ids of shape {ids.shape} for similarities of {image_text.shape}: need {image_text.shape[:-1]}"
        )
    positive = jnp.eye(batch) if ids is None else ids[..., :, None] == ids[..., None, :]
    positive = positive.astype(image_text.dtype)
    target = positive / positive.sum(axis=-1, keepdims=True)
    return both(
        _cross_entropy(target, _log_softmax(image_text, tau), reduction),
        _cross_entropy(target, _log_softmax(_transpose(image_text), tau), reduction),
    )


def csa(
    image_text: jax.Array,
    labels: SoftLabels,
    tau_image: jax.Array | float,
    tau_text: jax.Array | float,
    teacher_tau_image: jax.Array | float = 1.0,
    teacher_tau_text: jax.Array | float = 1.0,
    *,
    targets: Targets = "each",
    divergence: Divergence = "kl",
    reduction: Reduction = "sum",
) -> jax.Array:
    """Cross-modal soft-label alignment (reference unire/model.py:371-415). Returns a scalar.

    image_text: S [..., B, B]; labels: teacher similarities [..., B, B].
    targets: 'each' aligns image→text with the image teacher and text→image with the text teacher; 'add' and
    'dot' align both with the arithmetic or the (clipped) geometric mean of the two teachers.
    """
    teacher_image, teacher_text = targets_of(labels, targets)
    return both(
        align(image_text, teacher_image, tau_image, teacher_tau_image, divergence, reduction),
        align(_transpose(image_text), teacher_text, tau_text, teacher_tau_text, divergence, reduction),
    )


def usa(
    image_image: jax.Array,
    text_text: jax.Array,
    labels: SoftLabels,
    tau_image: jax.Array | float,
    tau_text: jax.Array | float,
    teacher_tau_image: jax.Array | float = 1.0,
    teacher_tau_text: jax.Array | float = 1.0,
    *,
    divergence: Divergence = "kl",
    reduction: Reduction = "sum",
) -> jax.Array:
    """Uni-modal soft-label alignment (reference unire/model.py:417-462). Returns a scalar.

    image_image, text_text: the student's similarities inside each modality, [..., B, B], diagonal included.
    """
    return both(
        align(image_image, labels.image, tau_image, teacher_tau_image, divergence, reduction),
        align(text_text, labels.text, tau_text, teacher_tau_text, divergence, reduction),
    )


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
    _check("divergence", divergence, Divergence)
    _check("reduction", reduction, Reduction)
    log_q, log_p = _log_softmax(teacher, teacher_tau), _log_softmax(similarity, tau)
    if divergence == "kl":
        return (jnp.exp(log_q) * (log_q - log_p)).sum(axis=-1).mean()
    return _cross_entropy(jnp.exp(log_q), log_p, reduction)


def targets_of(labels: SoftLabels, targets: Targets) -> tuple[jax.Array, jax.Array]:
    """Teacher similarities that image→text and text→image are aligned with (see `csa`)."""
    _check("targets", targets, Targets)
    if targets == "each":
        return labels.image, labels.text
    if targets == "add":
        joint = (labels.image + labels.text) / 2
    else:
        joint = jnp.sqrt(jnp.maximum(labels.image, 0) * jnp.maximum(labels.text, 0))
    return joint, joint


def _log_softmax(similarity: jax.Array, tau: jax.Array | float) -> jax.Array:
    return jax.nn.log_softmax(similarity / tau, axis=-1)


def _cross_entropy(target: jax.Array, log_p: jax.Array, reduction: Reduction) -> jax.Array:
    return -(target * log_p).sum(axis=-1).mean() / row_divisor(log_p.shape[-1], "cross_entropy", reduction)


def row_divisor(length: int, divergence: Divergence, reduction: Reduction) -> int:
    """What a row's sum is divided by: its length under 'mean' reduction, which KL ignores."""
    _check("divergence", divergence, Divergence)
    _check("reduction", reduction, Reduction)
    return length if divergence == "cross_entropy" and reduction == "mean" else 1


def both(image_side: jax.Array, text_side: jax.Array) -> jax.Array:
    """A loss from its two directions."""
    return (image_side + text_side) / 2


def _transpose(matrix: jax.Array) -> jax.Array:
    return matrix.swapaxes(-1, -2)


def _check(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise InputError(f"{name}={value!r} is none of {', '.join(get_args(choices))}")

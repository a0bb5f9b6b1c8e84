"""The contrastive loss: InfoNCE in both directions, in which all captions of an image are positives."""

import dataclasses
from typing import Any, get_args

import jax

from cusa_jax.losses.alignment import Reduction, both, cross_entropy, log_softmax, positives, transposed
from cusa_jax.losses.ranges import LearntTemperature, scalar
from cusa_jax.losses.softmax import Softmax
from cusa_jax.losses.term import Compared, Scalar, Scalars, Term
from cusa_jax.settings import choice, number, section


def contrastive(
    image_text: jax.Array, ids: jax.Array | None, tau: jax.Array | float, reduction: Reduction = "sum"
) -> jax.Array:
    """InfoNCE in both directions with joint positives (reference unire/model.py:234-253).

    image_text: S [..., B, B]. ids: int [..., B]; rows with equal ids are positives of each other and share the
    target mass equally; None means that only the diagonal is positive.
    reduction: 'sum' is InfoNCE; 'mean' divides it by B once more, which is what the paper's weights assume.
    Returns a scalar: the mean of the image-to-text and text-to-image losses.
    """
    positive = positives(image_text, ids).astype(image_text.dtype)
    target = positive / positive.sum(axis=-1, keepdims=True)
    return both(
        cross_entropy(target, log_softmax(image_text, tau), reduction),
        cross_entropy(target, log_softmax(transposed(image_text), tau), reduction),
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    weight: float = number(1.0, "of the contrastive loss; 0 is off", low=0)
    reduction: str = choice(
        "mean", "'mean' divides InfoNCE by the batch, as the paper's weights assume", get_args(Reduction)
    )
    tau: LearntTemperature = section(LearntTemperature, init=0.05, min=0.01, max=0.10)


def _scalars(loss: Any) -> dict[str, Scalar]:
    return {"tau_contrastive": scalar(loss.contrastive.tau, loss.contrastive.weight)}


def _dense(compared: Compared, scalars: Scalars, loss: Any) -> jax.Array:
    image_text = compared.similarities.image_text
    return contrastive(image_text, compared.ids, scalars["tau_contrastive"], loss.contrastive.reduction)


def _tiled(loss: Any) -> tuple[Softmax, ...]:
    reduction = loss.contrastive.reduction
    return (
        Softmax("image_text", "ids", "tau_contrastive", reduction=reduction),
        Softmax("text_image", "ids", "tau_contrastive", reduction=reduction),
    )


TERM = Term(
    name="contrastive",
    reads=frozenset({"image_text"}),
    settings=Settings(),
    scalars=_scalars,
    dense=_dense,
    tiled=_tiled,
    measured=True,
)

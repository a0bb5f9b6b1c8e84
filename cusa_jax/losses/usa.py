"""USA, uni-modal soft-label alignment: similarities inside each modality follow those of its teacher."""

import dataclasses
from typing import Any, get_args

import jax

from cusa_jax.losses.alignment import Divergence, Reduction, align, both
from cusa_jax.losses.directions import BorrowedDirections, arguments, directions, names, scalars
from cusa_jax.losses.softmax import Softmax
from cusa_jax.losses.term import Compared, Scalar, Scalars, Term
from cusa_jax.settings import choice, number
from cusa_jax.types import SoftLabels


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


@dataclasses.dataclass(frozen=True)
class Settings:
    weight: float = number(0.5, "β, of uni-modal soft-label alignment; 0 is off", low=0)
    divergence: str = choice("kl", "between soft labels and similarities", get_args(Divergence))
    reduction: str = choice(
        "mean", "of the cross-entropy: 'mean' divides it by the batch", get_args(Reduction)
    )
    tau: BorrowedDirections = directions(
        BorrowedDirections, 0.45, 0.10, 1.0, shared=False, trainable=True, from_csa=False
    )
    teacher_tau: BorrowedDirections = directions(
        BorrowedDirections, 1.0, 0.10, 1.0, shared=False, trainable=False, from_csa=True
    )


def _scalars(loss: Any) -> dict[str, Scalar]:
    return scalars(loss, "usa")


def _dense(compared: Compared, values: Scalars, loss: Any) -> jax.Array:
    images, texts = compared.similarities.image_image, compared.similarities.text_text
    assert images is not None
    assert texts is not None
    assert compared.labels is not None
    return usa(
        images,
        texts,
        compared.labels,
        **arguments(values, loss, "usa"),
        divergence=loss.usa.divergence,
        reduction=loss.usa.reduction,
    )


def _tiled(loss: Any) -> tuple[Softmax, ...]:
    of, modes = names(loss, "usa"), (loss.usa.divergence, loss.usa.reduction)
    return (
        Softmax("image_image", "each", of["tau_image"], of["teacher_tau_image"], *modes),
        Softmax("text_text", "each", of["tau_text"], of["teacher_tau_text"], *modes),
    )


TERM = Term(
    name="usa",
    reads=frozenset({"image_image", "text_text", "labels"}),
    settings=Settings(),
    scalars=_scalars,
    dense=_dense,
    tiled=_tiled,
    measured=True,
)

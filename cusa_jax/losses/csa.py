"""CSA, cross-modal soft-label alignment: S of images and captions follows what the teachers find alike."""

import dataclasses
from typing import Any, get_args

import jax

from cusa_jax.losses.alignment import Divergence, Reduction, Targets, align, both, targets_of, transposed
from cusa_jax.losses.directions import Directions, arguments, directions, names, scalars
from cusa_jax.losses.softmax import Softmax
from cusa_jax.losses.term import Compared, Scalar, Scalars, Term
from cusa_jax.settings import choice, number
from cusa_jax.types import SoftLabels


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
        align(transposed(image_text), teacher_text, tau_text, teacher_tau_text, divergence, reduction),
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    weight: float = number(0.1, "α, of cross-modal soft-label alignment; 0 is off", low=0)
    targets: str = choice(
        "each", "each direction follows its teacher, or both 'add' or 'dot' of the two", get_args(Targets)
    )
    divergence: str = choice("kl", "between soft labels and similarities", get_args(Divergence))
    reduction: str = choice(
        "mean", "of the cross-entropy: 'mean' divides it by the batch", get_args(Reduction)
    )
    tau: Directions = directions(Directions, 0.45, 0.10, 0.99, shared=True, trainable=True)
    teacher_tau: Directions = directions(Directions, 1.0, 0.10, 1.0, shared=True, trainable=False)


def _scalars(loss: Any) -> dict[str, Scalar]:
    return scalars(loss, "csa")


def _dense(compared: Compared, values: Scalars, loss: Any) -> jax.Array:
    own, labels = loss.csa, compared.labels
    assert labels is not None
    return csa(
        compared.similarities.image_text,
        labels,
        **arguments(values, loss, "csa"),
        targets=own.targets,
        divergence=own.divergence,
        reduction=own.reduction,
    )


def _tiled(loss: Any) -> tuple[Softmax, ...]:
    own, of = loss.csa, names(loss, "csa")
    modes = (own.divergence, own.reduction)
    return (
        Softmax("image_text", own.targets, of["tau_image"], of["teacher_tau_image"], *modes),
        Softmax("text_image", own.targets, of["tau_text"], of["teacher_tau_text"], *modes),
    )


TERM = Term(
    name="csa",
    reads=frozenset({"image_text", "labels"}),
    settings=Settings(),
    scalars=_scalars,
    dense=_dense,
    tiled=_tiled,
    measured=True,
)

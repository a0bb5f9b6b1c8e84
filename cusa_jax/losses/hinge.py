"""The hinge loss of VSE++, SCAN and SGRAF: whoever does not belong stays a margin below who does.

Faghri et al., VSE++, BMVC 2018. SGRAF sums over the batch, with a margin of 0.2 and the hardest negative alone.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from cusa_jax.losses.alignment import Reduction, check_mode, positives
from cusa_jax.losses.term import Compared, Scalars, Term
from cusa_jax.settings import choice, number, switch

Negatives = Literal["hardest", "all"]


def hinge(
    image_text: jax.Array,
    ids: jax.Array | None = None,
    margin: float = 0.2,
    *,
    negatives: Negatives = "hardest",
    reduction: Reduction = "sum",
) -> jax.Array:
    """Over images and their negative captions, Σ [margin + S_ij − S_ii]₊, and the same over captions. Returns a scalar.

    image_text: S [..., B, B], whose diagonal are the positives. ids: int [..., B]; rows with equal ids are no negatives
    of each other. None: all others are, also captions of the same image, as in SGRAF.
    negatives: of each row and of each column count 'all', or the 'hardest', the first of several.
    reduction: 'sum' over the batch, or its 'mean'.

    As torch's clamp, [x]₊ has the gradient 1 at zero.
    """
    check_mode("negatives", negatives, Negatives)
    check_mode("reduction", reduction, Reduction)
    positive = positives(image_text, ids) | jnp.eye(image_text.shape[-1], dtype=bool)
    own = jnp.diagonal(image_text, axis1=-2, axis2=-1)
    # Of images, whose captions are the columns, and of captions.
    both = ((own[..., :, None], -1), (own[..., None, :], -2))
    costs = sum(
        _counted(jnp.where(positive, 0, _clamped(margin + image_text - against)), negatives, axis)
        for against, axis in both
    )
    return jnp.asarray(costs).mean() / (image_text.shape[-1] if reduction == "mean" else 1)


def _clamped(x: jax.Array) -> jax.Array:
    return jnp.where(x >= 0, x, 0)


def _counted(costs: jax.Array, negatives: Negatives, axis: int) -> jax.Array:
    """[...] of costs [..., B, B]: the sum of all, or of the largest along an axis."""
    if negatives == "hardest":
        # max would share its gradient between equal ones.
        hardest = jax.lax.stop_gradient(costs).argmax(axis, keepdims=True)
        costs = jnp.take_along_axis(costs, hardest, axis)
    return costs.sum(axis=(-2, -1))


@dataclasses.dataclass(frozen=True)
class Settings:
    weight: float = number(
        0.0, "of the hinge loss of SGRAF and VSE++; 0 is off, and it is not measured", low=0
    )
    margin: float = number(0.2, "by which a positive must exceed each negative", low=0)
    negatives: str = choice("hardest", "of each image and caption count", get_args(Negatives))
    reduction: str = choice("sum", "over the batch", get_args(Reduction))
    mask_same_image: bool = switch(
        False, "captions of the same image are no negatives; SGRAF takes them for some"
    )


def _dense(compared: Compared, scalars: Scalars, loss: Any) -> jax.Array:
    own = loss.hinge
    return hinge(
        compared.similarities.image_text,
        compared.ids if own.mask_same_image else None,
        own.margin,
        negatives=own.negatives,
        reduction=own.reduction,
    )


TERM = Term(name="hinge", reads=frozenset({"image_text"}), settings=Settings(), dense=_dense)

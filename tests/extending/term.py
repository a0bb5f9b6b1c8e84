"""A term of one's own, `config.loss.margin`: scores of wrong pairs are to stay below the right one's by a margin."""

import dataclasses

import jax
import jax.numpy as jnp

from cusa_jax.losses.term import Compared, Scalar, Scalars, Term
from cusa_jax.losses.terms import TERMS
from cusa_jax.settings import number


@dataclasses.dataclass(frozen=True)
class Settings:
    weight: float = number(0.0, "of the margin term; 0 is off", low=0)
    start: float = number(0.2, "the margin at first; training learns it", low=0, high=1)


def scalars(loss) -> dict[str, Scalar]:
    return {"margin": Scalar(loss.margin.start, 0.0, 1.0, trainable=loss.margin.weight > 0)}


def dense(compared: Compared, values: Scalars, loss) -> jax.Array:
    """Mean over pairs of images and captions of others: how far the score exceeds the right pair's less a margin."""
    scores = compared.similarities.image_text
    ids = compared.ids
    others = ids[..., :, None] != ids[..., None, :]
    right = jnp.diagonal(scores, axis1=-2, axis2=-1)[..., None]
    return (jax.nn.relu(scores - right + values["margin"]) * others).sum() / others.sum().clip(1)


TERMS["margin"] = Term("margin", frozenset({"image_text", "ids"}), Settings(), dense, scalars)

"""The learnt numbers of the objective, such as temperatures: which there are, how they start, where they are clamped.

Each is a float32 scalar parameter in the training state, under the name that the log gives it: `tau_contrastive`,
`tau_csa`, `bias_sigmoid`; `_teacher` are the soft labels', and `_image` / `_text` stand where the two directions do
not share one.

Clamping edits the stored parameter before each step (reference unire/model.py:284-325), so the gradient is taken at
the clamped value (not masked), and the optimiser may leave a scalar one update outside its bounds until the next step.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from cusa_jax.losses.term import Scalar, Scalars
from cusa_jax.losses.terms import present

T = TypeVar("T")
# How files called the temperatures before there were other scalars.
_OLD_NAME = re.compile(r"(contrastive|csa|usa)(_teacher)?(_image|_text)?")


def specifications(loss: Any) -> dict[str, Scalar]:
    """All scalars of `config.loss`, of terms that are on or measured. One that two terms share is trained by either."""
    specs: dict[str, Scalar] = {}
    for term in present(loss):
        for name, scalar in term.scalars(loss).items():
            trainable = scalar.trainable or (name in specs and specs[name].trainable)
            specs[name] = dataclasses.replace(scalar, trainable=trainable)
    return specs


def init(specs: Mapping[str, Scalar]) -> dict[str, jax.Array]:
    """Start values, float32 []. They may lie outside their bounds; the first step clamps them."""
    return {name: jnp.asarray(spec.init, jnp.float32) for name, spec in specs.items()}


def clamp(values: Scalars, specs: Mapping[str, Scalar]) -> dict[str, jax.Array]:
    """Each scalar inside its bounds, frozen ones too."""
    return {name: jnp.clip(value, specs[name].min, specs[name].max) for name, value in values.items()}


def renamed(values: Mapping[str, T]) -> dict[str, T]:
    """The scalars in a file by their names of today: older ones say 'csa' for 'tau_csa'."""
    return {f"tau_{name}" if _OLD_NAME.fullmatch(name) else name: value for name, value in values.items()}

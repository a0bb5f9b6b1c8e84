"""Which temperatures a loss configuration has, how they start, where they are clamped, which ones are trained.

Reference unire/model.py:53-118 (existence and initial values), 196-232 (freezing), 284-325 (clamping).
Every temperature is a float32 scalar parameter. Names say who owns it: `contrastive`, `csa`, `usa` for the
student's, with `_teacher` for the soft labels', and `_image` / `_text` where the two directions do not share one.

Clamping edits the stored parameter before each step, so the gradient is taken at the clamped value (not masked),
and the optimiser may leave a temperature one update outside its bounds until the next step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

KINDS = ("tau", "teacher_tau")


@dataclasses.dataclass(frozen=True)
class Temperature:
    """One scalar: start value, bounds, and whether the optimiser may move it."""

    init: float
    min: float
    max: float
    trainable: bool


def temperatures(loss: Any) -> dict[str, Temperature]:
    """All temperatures of `config.loss`. A shared one takes the means of the two sides' start and bounds.

    USA may borrow CSA's (`from_csa`), and then follows CSA's sharing and freezing; the borrowed ones exist even
    where CSA's weight is 0 (the reference crashes there).
    """
    own = loss.contrastive.tau
    found = {
        "contrastive": Temperature(own.init, own.min, own.max, own.trainable and loss.contrastive.weight > 0)
    }
    for term in ("csa", "usa"):
        for kind in KINDS:
            sides = loss[_owner(loss, term, kind)][kind]
            image, text = _names(loss, term, kind)
            used = {image: ("image", "text")} if image == text else {image: ("image",), text: ("text",)}
            for name, averaged in used.items():
                trainable = sides.trainable and loss[term].weight > 0
                trainable |= name in found and found[name].trainable
                found[name] = _temperature([sides[side] for side in averaged], trainable)
    return found


def init(specs: dict[str, Temperature]) -> dict[str, jax.Array]:
    """Start values, float32 []. They may lie outside their bounds; the first step clamps them."""
    return {name: jnp.asarray(spec.init, jnp.float32) for name, spec in specs.items()}


def clamp(taus: dict[str, jax.Array], specs: dict[str, Temperature]) -> dict[str, jax.Array]:
    """Each temperature inside its bounds, frozen ones too."""
    return {name: jnp.clip(tau, specs[name].min, specs[name].max) for name, tau in taus.items()}


def arguments(taus: dict[str, jax.Array], loss: Any, term: str) -> dict[str, jax.Array]:
    """The temperatures of one term ('csa' or 'usa') as keyword arguments of the function in losses.py."""
    return {
        f"{kind}_{side}": taus[name]
        for kind in KINDS
        for name, side in zip(_names(loss, term, kind), ("image", "text"), strict=True)
    }


def _owner(loss: Any, term: str, kind: str) -> str:
    return "csa" if term == "usa" and loss.usa[kind].from_csa else term


def _names(loss: Any, term: str, kind: str) -> tuple[str, str]:
    """Names of the image side's and the text side's temperature; equal when they share one."""
    owner = _owner(loss, term, kind)
    stem = owner if kind == "tau" else f"{owner}_teacher"
    # With joint targets ('add', 'dot') both directions have one temperature whatever `shared` says
    # (reference unire/model.py:85-87).
    if loss[owner][kind].shared or (owner == "csa" and loss.csa.targets != "each"):
        return stem, stem
    return f"{stem}_image", f"{stem}_text"


def _temperature(sides: list[Any], trainable: bool) -> Temperature:
    def mean(field: str) -> float:
        return sum(side[field] for side in sides) / len(sides)

    return Temperature(mean("init"), mean("min"), mean("max"), trainable)

"""The temperatures of CSA and USA: one for each direction or shared by both, the student's and the soft labels'.

USA may borrow CSA's (`from_csa`), and then follows CSA's sharing and freezing. Reference unire/model.py:53-118
(existence and initial values), 196-232 (freezing).
"""

import dataclasses
from typing import Any

import jax

from cusa_jax.losses.ranges import Temperature
from cusa_jax.losses.term import Scalar, Scalars
from cusa_jax.settings import section, switch

KINDS = ("tau", "teacher_tau")
SIDES = ("image", "text")


@dataclasses.dataclass(frozen=True)
class Directions:
    """Temperatures of the rows of images and of the rows of texts."""

    image: Temperature = section(Temperature)
    text: Temperature = section(Temperature)
    shared: bool = switch(True, "one temperature for both, with the means of their starts and bounds")
    trainable: bool = switch(True, "False freezes them")


@dataclasses.dataclass(frozen=True)
class BorrowedDirections(Directions):
    from_csa: bool = switch(False, "use CSA's temperatures, with its `shared` and `trainable`")


def directions(kind: type[Directions], init: float, low: float, high: float, **switches: bool) -> Any:
    """A section whose two sides are alike."""
    side = Temperature(init, low, high)
    return section(kind, image=side, text=side, **switches)


def scalars(loss: Any, term: str) -> dict[str, Scalar]:
    """The temperatures that a term ('csa' or 'usa') uses, borrowed ones too; off, it trains none.

    A shared one takes the means of the two sides' start and bounds.
    """
    specifications = {}
    for kind in KINDS:
        own = getattr(loss[_owner(loss, term, kind)], kind)
        image, text = _names(loss, term, kind)
        sides = {image: (own.image, own.text)} if image == text else {image: (own.image,), text: (own.text,)}
        for name, averaged in sides.items():
            init, low, high = (
                sum(getattr(side, field) for side in averaged) / len(averaged)
                for field in ("init", "min", "max")
            )
            specifications[name] = Scalar(init, low, high, own.trainable and loss[term].weight > 0)
    return specifications


def arguments(values: Scalars, loss: Any, term: str) -> dict[str, jax.Array]:
    """The temperatures of a term as keyword arguments of the function of its name: tau_image, teacher_tau_text, …"""
    return {argument: values[name] for argument, name in names(loss, term).items()}


def names(loss: Any, term: str) -> dict[str, str]:
    """{'tau_image': 'tau_csa', …}: which scalar a term uses for what."""
    return {
        f"{kind}_{side}": name
        for kind in KINDS
        for side, name in zip(SIDES, _names(loss, term, kind), strict=True)
    }


def _owner(loss: Any, term: str, kind: str) -> str:
    return "csa" if term == "usa" and getattr(loss.usa, kind).from_csa else term


def _names(loss: Any, term: str, kind: str) -> tuple[str, str]:
    """Names of the image side's and the text side's temperature; equal when they share one."""
    owner = _owner(loss, term, kind)
    stem = f"tau_{owner}" if kind == "tau" else f"tau_{owner}_teacher"
    # With joint targets ('add', 'dot') both directions have one temperature whatever `shared` says
    # (reference unire/model.py:85-87).
    if getattr(loss[owner], kind).shared or (owner == "csa" and loss.csa.targets != "each"):
        return stem, stem
    return f"{stem}_image", f"{stem}_text"

"""The table of terms. A program with one of its own adds it before it makes a configuration: TERMS["mine"] = Term(…)"""

from collections.abc import Collection
from typing import Any

from cusa_jax.errors import InputError
from cusa_jax.losses.contrastive import TERM as CONTRASTIVE
from cusa_jax.losses.csa import TERM as CSA
from cusa_jax.losses.hinge import TERM as HINGE
from cusa_jax.losses.sigmoid import TERM as SIGMOID
from cusa_jax.losses.term import Term
from cusa_jax.losses.usa import TERM as USA

TERMS: dict[str, Term] = {term.name: term for term in (CONTRASTIVE, CSA, USA, SIGMOID, HINGE)}
# How an input comes about, for messages.
SOURCES = {"labels": "both teachers", "ids": "image numbers"}


def on(loss: Any) -> list[Term]:
    """The terms of `config.loss` that have a weight."""
    return [term for term in TERMS.values() if loss[term.name].weight > 0]


def present(loss: Any) -> list[Term]:
    """The terms that have scalars: those that are on, and those that are measured while they are off."""
    return [term for term in TERMS.values() if term.measured or loss[term.name].weight > 0]


def reads(loss: Any) -> frozenset[str]:
    """All inputs that the terms with a weight cannot do without (`Term.reads`)."""
    return frozenset().union(*(term.reads for term in on(loss)))


def computed(loss: Any, inputs: Collection[str], *, tiled: bool) -> list[Term]:
    """The terms to compute from what is there, in the order of TERMS. tiled: by their problems, never by matrices.

    Raises InputError for a term with a weight that lacks an input or the form asked for; without, it is left out.
    """
    terms = []
    for term in present(loss):
        lacking = [SOURCES.get(name, name) for name in sorted(term.reads - set(inputs))]
        if tiled and term.tiled is None:
            lacking.append("whole matrices (config.loss.tile=0)")
        if not lacking:
            terms.append(term)
        elif loss[term.name].weight > 0:
            raise InputError(
                f"config.loss.{term.name}.weight={loss[term.name].weight:g} needs {' and '.join(lacking)}; "
                f"give them, or set config.loss.{term.name}.weight=0"
            )
    return terms

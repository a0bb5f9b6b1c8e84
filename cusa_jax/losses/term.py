"""What a term of the objective is: a value that says what it reads, which settings and scalars it has, and its formula.

A new term is one file with such a value, and an entry in `terms.TERMS`; the configuration, the objective, the training
state, the log and the tiled losses know it from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
from flax import struct

from cusa_jax.losses.problem import Problem
from cusa_jax.types import Similarities, SoftLabels

Scalars: TypeAlias = Mapping[str, jax.Array]  # {'tau_csa': float32 [], …}, clamped
# All that a term may read of a batch.
INPUTS = frozenset({"image_text", "image_image", "text_text", "labels", "ids"})


@dataclasses.dataclass(frozen=True)
class Scalar:
    """One number that training may learn, such as a temperature: its start, its bounds, whether it is learnt."""

    init: float
    min: float
    max: float
    trainable: bool


@struct.dataclass
class Compared:
    """What a step compares, of B rows or of groups of them. What is not there is None.

    similarities: the student's, [..., B, B]. labels: the teachers' similarities of the same rows, [..., B, B].
    ids: int [..., B], numbers of the images; rows with equal numbers are positives of each other.
    """

    similarities: Similarities
    labels: SoftLabels | None = None
    ids: jax.Array | None = None

    @property
    def inputs(self) -> frozenset[str]:
        """The names of what is there, as `Term.reads` says them."""
        values = {**vars(self.similarities), "labels": self.labels, "ids": self.ids}
        return frozenset(name for name, value in values.items() if value is not None)


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of the objective. Its settings are the section `config.loss.<name>`.

    reads: what it cannot do without, of INPUTS.
    settings: the defaults, an instance of a frozen dataclass (settings.py) with a number `weight`; a term of weight 0
        is off.
    scalars: `config.loss` -> its scalars by their names in the log. A name of another term's shares that one's.
    dense: (what is compared, all scalars, `config.loss`) -> the term without its weight, a float32 scalar.
    tiled: `config.loss` -> the problems whose mean over rows, averaged over problems, equals `dense` (problem.py);
        None of a term that needs whole matrices.
    measured: whether it is computed and logged while it is off, too, where there is what it reads.
    """

    name: str
    reads: frozenset[str]
    settings: Any
    dense: Callable[[Compared, Scalars, Any], jax.Array]
    scalars: Callable[[Any], dict[str, Scalar]] = lambda loss: {}
    tiled: Callable[[Any], tuple[Problem, ...]] | None = None
    measured: bool = False

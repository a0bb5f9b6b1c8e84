"""Settings of one scalar: where it starts, where it is clamped, whether it is learnt."""

import dataclasses
from typing import Any

from cusa_jax.errors import InputError
from cusa_jax.losses.term import Scalar
from cusa_jax.settings import number, switch


@dataclasses.dataclass(frozen=True)
class Range:
    """A start and bounds of either sign, such as of a bias."""

    init: float = number(0.0, "start; outside the bounds it is clamped in the first step")
    min: float = number(-1.0, "lower bound")
    max: float = number(1.0, "upper bound")

    def check(self, key: str) -> None:
        if self.min > self.max:
            raise InputError(f"{key}: min {self.min} exceeds max {self.max}")


@dataclasses.dataclass(frozen=True)
class LearntRange(Range):
    trainable: bool = switch(True, "False freezes it")


@dataclasses.dataclass(frozen=True)
class Temperature(Range):
    init: float = number(0.45, "start; outside the bounds it is clamped in the first step", above=0)
    min: float = number(0.10, "lower bound", above=0)
    max: float = number(1.0, "upper bound", above=0)


@dataclasses.dataclass(frozen=True)
class LearntTemperature(Temperature):
    trainable: bool = switch(True, "False freezes it")


def scalar(learnt: Any, weight: float) -> Scalar:
    """The scalar of a `LearntRange` or `LearntTemperature` that a term of this weight uses; off, it is not learnt."""
    return Scalar(learnt.init, learnt.min, learnt.max, learnt.trainable and weight > 0)

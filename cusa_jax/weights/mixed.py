"""Two models of any format mixed into one: `mixing.mix` of their variables and of what their losses learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from cusa_jax import mixing
from cusa_jax.errors import InputError
from cusa_jax.models import families
from cusa_jax.weights.hub import Weights


def mix(first: Weights, second: Weights, weight: float) -> Weights:
    """(1 - weight) first + weight second. Recipe, tokenizer, and scalars and extras of its own are the second's.

    Raises InputError where the models differ in family, sizes, activation or pixels, or in their heads; and for a
    weight outside [0, 1].
    """
    if first.family != second.family:
        raise InputError(f"models of different kinds cannot be mixed: a {first.family} and a {second.family}")
    for field in dataclasses.fields(first.sizes):
        one, other = (getattr(weights.sizes, field.name) for weights in (first, second))
        if one != other:
            what = (
                "that differ in activation or pixels" if field.name in families.OWN else "of different sizes"
            )
            raise InputError(
                f"models {what} cannot be mixed: {field.name} is {one} in one, {other} in the other"
            )
    if first.heads != second.heads:
        one, other = (" and ".join(weights.heads) or "none" for weights in (first, second))
        raise InputError(
            f"models of different heads cannot be mixed: {one} in one, {other} in the other; a model trained with "
            "config.model.heads='none' has those of the pretrained one: none"
        )
    return dataclasses.replace(
        second,
        variables=mixing.mix(first.variables, second.variables, weight),
        scalars=_shared(first.scalars, second.scalars, weight),
        extras=_shared(first.extras, second.extras, weight),
    )


def _shared(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], weight: float
) -> dict[str, np.ndarray]:
    """The second's values, mixed with those that the first has, too."""
    return {
        name: np.asarray((1 - weight) * first[name] + weight * value, np.asarray(value).dtype)
        if name in first
        else value
        for name, value in second.items()
    }

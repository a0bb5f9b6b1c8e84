"""Two models as one: the mean of their weights (WiSE-FT; `cusa_jax.mixing`), such as before and after a fine-tuning."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from cusa_jax import mixing
from cusa_jax.errors import InputError
from cusa_jax.types import Params
from cusa_jax.weights.hub import HEADS, Weights, head_modules


def mixed(first: Weights, second: Weights, weight: float) -> Weights:
    """(1 - weight) first + weight second. Scalars, recipe and tokenizer are those of the second, the trained one.

    Residual heads that one of them lacks count as the identity, which they begin as.
    Raises InputError for models of different families or sizes, and where one has other heads.
    """
    for what in ("family", "sizes"):
        if getattr(first, what) != getattr(second, what):
            raise InputError(
                f"models cannot be mixed: their {what} differ, {getattr(first, what)} and {getattr(second, what)}"
            )
    heads = tuple(kind for kind in HEADS if kind in (*first.heads, *second.heads))
    ours, theirs = (_with_heads(one, heads, (first, second)) for one in (first, second))
    variables = mixing.mix(ours, theirs, weight)
    scalars = {**first.scalars, **second.scalars}
    return dataclasses.replace(
        second,
        variables=variables,
        heads=heads,
        scalars=scalars,
        tokenizer=second.tokenizer or first.tokenizer,
        figures={},
        intervals={},
    )


def _with_heads(weights: Weights, heads: tuple[str, ...], both: tuple[Weights, Weights]) -> Params:
    """Its variables with heads that do nothing, where the other has some that it lacks."""
    missing = head_modules(tuple(kind for kind in heads if kind not in weights.heads))
    if not missing:
        return weights.variables
    other = next(one for one in both if one is not weights)
    if other.head_kind != "residual" or (weights.heads and weights.head_kind != "residual"):
        raise InputError(
            f"models cannot be mixed: only one has {other.head_kind} heads ({', '.join(other.heads)}), which do not "
            "begin as the identity; train with config.model.heads='residual' or 'none'"
        )
    own = other.variables["params"]
    identity = {name: jax.tree.map(np.zeros_like, own[name]) for name in missing if name in own}
    return {**weights.variables, "params": {**weights.variables["params"], **identity}}

"""An exponential moving average of the parameters, kept in the optimiser's state: it is saved and split as that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from flax import traverse_util

from cusa_jax.types import Params


class Average(NamedTuple):
    """params: of those that are trained; the others are what they are."""

    params: Params


def of_parameters(decay: float, trained: Callable[[tuple[str, ...]], bool]) -> optax.GradientTransformation:
    """average <- decay average + (1 - decay) parameters, after every step, from where the parameters start.

    Passes updates on as they are. trained: whether the parameter at a path is.
    """

    def chosen(tree: Params) -> Params:
        flat = traverse_util.flatten_dict(tree)
        return traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if trained(path)})

    def init(params: Params) -> Average:
        # A copy: the step gives its inputs away, and may not give one buffer away twice.
        return Average(jax.tree.map(lambda leaf: leaf.copy(), chosen(params)))

    def update(updates: Params, state: Average, params: Params | None = None) -> tuple[Params, Average]:
        new = chosen(optax.apply_updates(params, updates))
        return updates, Average(
            jax.tree.map(lambda old, value: decay * old + (1 - decay) * value, state.params, new)
        )

    return optax.GradientTransformation(init, update)


def averaged(params: Params, opt_state: Any) -> Params:
    """The parameters with their averages, where the optimiser's state holds them; else as they are."""
    held = [part for part in opt_state if isinstance(part, Average)]
    if not held:
        return params
    flat = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(held[0].params)
    return traverse_util.unflatten_dict(flat)

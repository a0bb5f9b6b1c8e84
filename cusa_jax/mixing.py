"""Weights between two models of one shape: WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903).

A fine-tuned model mixed with the one it started from often keeps what both are good at.
"""

from __future__ import annotations

from flax import traverse_util

from cusa_jax.errors import InputError
from cusa_jax.types import Params


def mix(first: Params, second: Params, weight: float) -> Params:
    """(1 - weight) first + weight second, leaf by leaf: `first` at 0, `second` at 1.

    first, second: trees of float arrays, such as variables, with the same paths and shapes.
    Raises InputError for a weight outside [0, 1], and naming the first path at which the trees differ.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"mix={weight} must be from 0, the first model, to 1, the second")
    ours, theirs = (traverse_util.flatten_dict(tree) for tree in (first, second))
    for path in [*ours, *theirs]:
        _check(path, ours, theirs)
    return traverse_util.unflatten_dict(
        {path: (1 - weight) * leaf + weight * theirs[path] for path, leaf in ours.items()}
    )


def _check(path: tuple[str, ...], first: Params, second: Params) -> None:
    shapes = [tree[path].shape if path in tree else None for tree in (first, second)]
    if shapes[0] == shapes[1]:
        return
    name = "/".join(path)
    if None in shapes:
        owner = "first" if shapes[1] is None else "second"
        raise InputError(f"models of different sizes cannot be mixed: only the {owner} has {name}")
    raise InputError(
        f"models of different sizes cannot be mixed: {name} is {shapes[0]} in one, {shapes[1]} in the other"
    )

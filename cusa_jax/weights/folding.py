"""Trained heads and formats that have none: refused, or folded into the towers where that is exact.

A residual head f + W f + b follows an affine layer. With f = x P, whose x = n s + c leaves a layer norm, it is
(n s + c + δ) P (I + W), with δ P (I + W) = b: the model without the head, of another P and another bias of its norm.
With f = x P + p, of a linear layer with a bias, p becomes p (I + W) + b.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from cusa_jax.errors import InputError
from cusa_jax.types import Params
from cusa_jax.weights.hub import Weights

_TOLERANCE = (
    1e-5  # of the bias that a norm takes over, relative to the largest entry; float64 stays below 1e-12
)


def refuse_heads(weights: Weights, where: object) -> None:
    """Raises InputError where weights have heads, which the format to be written lacks; it names the ways out."""
    if not weights.heads:
        return
    named = f"{weights.head_kind} heads ({', '.join(weights.heads)})"
    ways = ["a .safetensors keeps them", "config.model.heads='none' trains without"]
    if _cannot_fold(weights) == "":
        ways.insert(0, "--heads=fold folds the cross-modal ones into the towers, exactly")
    elif weights.family == "clip":
        ways.append("'residual' ones could be folded")
    raise InputError(
        f"{where}: the model has trained {named}, which this format cannot hold, and without them it is another "
        f"model; {'; '.join(ways)}"
    )


def fold(weights: Weights, where: object) -> Weights:
    """The same image-text embeddings without heads: the cross-modal ones in the towers, uni-modal ones left out.

    where: the weights, for messages. Raises InputError where heads cannot be folded exactly.
    """
    if why := _cannot_fold(weights):
        raise InputError(f"{where}: {why}; write a .safetensors, which keeps them")
    if "uni" in weights.heads:
        logging.warning(
            "%s: its uni-modal heads are left out: what is written has one embedding a side", where
        )
    params = dict(weights.towers["params"])
    if "cross" in weights.heads:
        for side in ("image", "text"):
            linear = weights.variables["params"][f"cross_{side}"]["linear"]
            params[side] = _folded(params[side], _last_layer(weights, side), linear, where)
    variables = {**weights.towers, "params": params}
    return dataclasses.replace(weights, variables=variables, heads=())


def _cannot_fold(weights: Weights) -> str:
    """Why heads cannot be folded; '' where they can."""
    if "cross" not in weights.heads:
        return ""
    if weights.head_kind != "residual":
        return "its linear heads begin with a norm over features, which no tower ends with: they cannot be folded"
    if not (_last_layer(weights, "image") and _last_layer(weights, "text")):
        return f"a tower of a {weights.family} does not end in a linear layer, so that its heads cannot be folded"
    return ""


def _last_layer(weights: Weights, side: str) -> tuple[str, ...]:
    """Path of the linear layer that a tower ends with, and of the norm before it; () where there is none.

    (projection, norm) of a matrix without a bias, (…, '') of a layer with one.
    """
    if weights.family == "clip" and side == "image" and weights.sizes.resnet_blocks:
        return ("attnpool/c_proj", "")
    if weights.family == "clip":
        return ("projection", "ln_post" if side == "image" else "ln_final")
    if weights.family == "siglip" and side == "text":
        return ("projection", "")
    return ()


def _folded(tower: Params, names: tuple[str, ...], head: Mapping[str, Any], where: object) -> Params:
    """A tower whose features are those of the head behind it. names: `_last_layer`."""
    layer, norm = names
    kernel, bias = (np.asarray(head[name], np.float64) for name in ("kernel", "bias"))
    turned = np.eye(len(kernel)) + kernel
    if not norm:
        old = _at(tower, layer)
        new = {
            "kernel": _float32(np.asarray(old["kernel"], np.float64) @ turned),
            "bias": _float32(np.asarray(old["bias"], np.float64) @ turned + bias),
        }
        return _with(tower, layer, new)
    projection = np.asarray(tower[layer], np.float64) @ turned
    shift = np.linalg.lstsq(projection.T, bias, rcond=None)[0]
    if np.abs(shift @ projection - bias).max() > _TOLERANCE * max(np.abs(bias).max(), 1e-30):
        raise InputError(
            f"{where}: the bias of its heads lies outside what the tower's projection can reach: they cannot be folded "
            "exactly; write a .safetensors, which keeps them"
        )
    moved = {**tower[norm], "bias": _float32(np.asarray(tower[norm]["bias"], np.float64) + shift)}
    return {**tower, layer: _float32(projection), norm: moved}


def _at(tree: Params, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree


def _with(tree: Params, path: str, value: Any) -> Params:
    name, _, rest = path.partition("/")
    return {**tree, name: _with(tree[name], rest, value) if rest else value}


def _float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32, order="C")

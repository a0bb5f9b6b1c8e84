"""Linen parameters <-> PyTorch-named tensors: one strict key table for both directions.

A key table maps our modules to the file's: {'layer_0/query': 'encoder.layer.0.attention.attn.q', ...}.
What remains is one rule per kind of leaf: a Dense kernel [in, out] is a weight [out, in], a Conv kernel
HWIO is a weight OIHW, a norm's scale and an Embed embedding are weights as they stand, and a BatchNorm's
running mean and variance have names of their own. A parameter that belongs to no module (`pos_embed`)
stands in the table by itself. Where the file has a tensor in parts or turned, the table says it (`Tensors`).

Strict: every tensor of the file is used, or ignored for a reason that the caller gives; nothing is left at
its initial value.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cusa_jax.errors import InputError, listed, one_line
from cusa_jax.files import written_whole
from cusa_jax.jsonfile import read_json
from cusa_jax.types import Params
from cusa_jax.weights import torch_file

LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
DENSE_AXES = (1, 0)
CONV_AXES = (3, 2, 0, 1)  # HWIO -> OIHW
# Keys of one kind that a message lists.
_TOLD = 8

LeafPath = tuple[str, ...]  # of a leaf in the parameter tree


@dataclasses.dataclass(frozen=True)
class Tensors:
    """How a module or a parameter of ours lies in a file, where its name alone does not say it.

    names: of the equal parts that it is in, along the file's first axis; one where it is whole.
    whole: another name, under which some files have it whole; it is read, not written.
    axes: 'torch' by the rule for its kind of leaf, 'turned' where a plain matrix is the file's transpose, 'ours' where
        the file has our own layouts.
    """

    names: tuple[str, ...]
    whole: str = ""
    axes: Literal["torch", "turned", "ours"] = "torch"


KeyTable = Mapping[str, str | Tensors]


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One parameter in the file. axes: ours in the file's order. shape: in the file, of the whole."""

    keys: tuple[str, ...]
    whole: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def expected(self, tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
        """{key: shape} of what `tensors` should have of it, in the way of the two that it has."""
        if self.whole in tensors and self.keys[0] not in tensors:
            return {self.whole: self.shape}
        rows, *rest = self.shape or (1,)
        part = (rows // len(self.keys), *rest) if len(self.keys) > 1 else self.shape
        return dict.fromkeys(self.keys, part)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a .safetensors file. Raises InputError where there is no such file or it is damaged."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, nor a list of its parts ({path.name}.index.json)")
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); get it again") from error


def read_folder(
    folder: Path, stem: str = "model", torch_stem: str = "pytorch_model"
) -> dict[str, np.ndarray]:
    """All tensors of a Hugging Face folder: its .safetensors, or else its PyTorch .bin; each whole or in parts."""
    safe, pickled = folder / f"{stem}.safetensors", folder / f"{torch_stem}.bin"
    for path, read in ((safe, read_safetensors), (pickled, _read_pickled)):
        if path.is_file():
            return read(path)
        index = folder / f"{path.name}.index.json"
        if index.is_file():
            return _read_parts(index, read)
    return read_safetensors(safe)


def _read_pickled(path: Path) -> dict[str, np.ndarray]:
    return torch_file.flatten(torch_file.read(path))


def _read_parts(index: Path, read: Callable[[Path], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The tensors that an index assigns to files beside it. Raises InputError where one is missing."""
    places = read_json(index, "get it again").get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{index}: has no weight_map of tensors to files; get it again")
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(places.values())):
        part = index.parent / name
        if Path(name).name != name or not part.is_file():
            raise InputError(f"{index}: lists {one_line(name)[:80]}, which is not beside it; get it again")
        held = read(part)
        if missing := [key for key, file in places.items() if file == name and key not in held]:
            raise InputError(
                f"{part}: lacks {one_line(missing[0])[:80]}, which {index.name} lists; get it again"
            )
        tensors |= held
    return tensors


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes the tensors as they are, dtype kept; whole or not at all."""
    # The library stores the raw buffer, so a transposed view must be laid out first.
    laid_out = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    with written_whole(path) as fresh:
        save_file(laid_out, fresh, metadata)


def to_torch(params: Params, table: KeyTable) -> dict[str, np.ndarray]:
    """The tensors of `params` under the file's names and in its layouts; dtypes are kept."""
    leaves = _leaves(params, table)
    tensors: dict[str, np.ndarray] = {}
    for path, value in traverse_util.flatten_dict(params).items():
        keys, array = leaves[path].keys, np.asarray(value).transpose(leaves[path].axes)
        parts = [array] if len(keys) == 1 else np.split(array, len(keys))
        tensors |= dict(zip(keys, parts, strict=True))
    return tensors


def from_torch(
    tensors: Mapping[str, np.ndarray],
    template: Params,
    table: KeyTable,
    *,
    ignored: Mapping[str, str],
    where: str | Path,
    model: str = "the model",
) -> Params:
    """Parameters in the structure of `template`, float32 whatever float the file holds.

    template: pytree of anything with a shape, such as `jax.eval_shape` of the module's init.
    ignored: {regular expression for a whole key: why it is not needed}.
    where, model: the file, and what it should be, for the message.

    Raises InputError that counts the missing, unexpected and unfit (shape or dtype) keys, and lists some of each.
    """
    leaves = _leaves(template, table)
    _check(tensors, leaves, ignored, where, model)
    params = {}
    for path, leaf in leaves.items():
        parts = [tensors[key] for key in leaf.expected(tensors)]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        params[path] = np.asarray(whole.transpose(np.argsort(leaf.axes)), np.float32, order="C")
    return traverse_util.unflatten_dict(params)


def _check(
    tensors: Mapping[str, np.ndarray],
    leaves: Mapping[LeafPath, _Leaf],
    ignored: Mapping[str, str],
    where: str | Path,
    model: str,
) -> None:
    shapes = {key: shape for leaf in leaves.values() for key, shape in leaf.expected(tensors).items()}
    unneeded = {key for key in tensors if any(re.fullmatch(rule, key) for rule in ignored)}
    complaints = {
        "missing": [key for key in shapes if key not in tensors],
        "unexpected": [key for key in tensors if key not in shapes and key not in unneeded],
        "unfit": [
            f"{key} ({tensors[key].dtype} {tensors[key].shape} for float {shape})"
            for key, shape in shapes.items()
            if key in tensors and not _fits(tensors[key], shape)
        ],
    }
    if any(complaints.values()):
        told = "; ".join(
            f"{len(keys)} {what}: {listed(keys, _TOLD)}" for what, keys in complaints.items() if keys
        )
        raise InputError(f"{where}: the weights do not fit {model}: {one_line(told)}")


def _leaves(tree: Params, table: KeyTable) -> dict[LeafPath, _Leaf]:
    return {path: _leaf(path, leaf.shape, table) for path, leaf in traverse_util.flatten_dict(tree).items()}


def _leaf(path: LeafPath, shape: tuple[int, ...], table: KeyTable) -> _Leaf:
    name = "/".join(path)
    entry, suffix = (
        (table[name], "") if name in table else (table["/".join(path[:-1])], "." + LEAF_NAMES[path[-1]])
    )
    if isinstance(entry, str):
        entry = Tensors((entry,))
    axes = _axes(path, len(shape), entry)
    keys = tuple(key + suffix for key in entry.names)
    return _Leaf(keys, entry.whole and entry.whole + suffix, axes, tuple(shape[axis] for axis in axes))


def _axes(path: LeafPath, rank: int, entry: Tensors) -> tuple[int, ...]:
    if entry.axes == "turned":
        return DENSE_AXES
    if entry.axes == "ours" or path[-1] != "kernel":
        return tuple(range(rank))
    return {2: DENSE_AXES, 4: CONV_AXES}[rank]


def _fits(tensor: np.ndarray, shape: tuple[int, ...]) -> bool:
    return tensor.shape == shape and jnp.issubdtype(tensor.dtype, jnp.floating)  # bfloat16 is a jnp float

"""Linen parameters <-> PyTorch-named tensors, through a strict key table.

A key table maps our modules to the file's: {'layer_0/query': 'encoder.layer.0.attention.attn.q', ...}.
What remains is one rule per kind of leaf: a Dense kernel [in, out] is a weight [out, in], a Conv kernel
HWIO is a weight OIHW, a norm's scale and an Embed embedding are weights as they stand, and a BatchNorm's
running mean and variance have names of their own. A parameter that
belongs to no module (`pos_embed`) stands in the table by itself.

Strict: every tensor of the file is used, or ignored for a reason that the caller gives; nothing is left at
its initial value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cusa_jax.errors import InputError, one_line
from cusa_jax.files import written_whole
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

KeyTable = Mapping[str, str]
LeafPath = tuple[str, ...]  # of a leaf in the parameter tree


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a .safetensors file. Raises InputError where there is no such file or it is damaged."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; sharded weights are not read, save them in one file first")
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); get it again") from error


def read_folder(
    folder: Path, stem: str = "model", torch_stem: str = "pytorch_model"
) -> dict[str, np.ndarray]:
    """All tensors of a Hugging Face folder: its .safetensors, or else its PyTorch .bin."""
    safe, pickled = folder / f"{stem}.safetensors", folder / f"{torch_stem}.bin"
    if pickled.is_file() and not safe.is_file():
        return torch_file.flatten(torch_file.read(pickled))
    return read_safetensors(safe)


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
    flat = traverse_util.flatten_dict(params)
    return {
        _key(path, table): np.asarray(leaf).transpose(_torch_axes(path, leaf.ndim))
        for path, leaf in flat.items()
    }


def from_torch(
    tensors: Mapping[str, np.ndarray],
    template: Params,
    table: KeyTable,
    *,
    ignored: Mapping[str, str],
    where: str | Path,
) -> Params:
    """Parameters in the structure of `template`, float32 whatever float the file holds.

    template: pytree of anything with a shape, such as `jax.eval_shape` of the module's init.
    ignored: {regular expression for a whole key: why it is not needed}.
    where: the file, for the message.

    Raises InputError that lists at once every missing, unexpected and unfit (shape or dtype) key.
    """
    keys, axes, _ = _expected(template, table)
    check(tensors, template, table, ignored=ignored, where=where)
    params = {
        path: np.ascontiguousarray(tensors[key].transpose(np.argsort(axes[path])), dtype=np.float32)
        for path, key in keys.items()
    }
    return traverse_util.unflatten_dict(params)


def check(
    tensors: Mapping[str, np.ndarray],
    template: Params,
    table: KeyTable,
    *,
    ignored: Mapping[str, str],
    where: str | Path,
) -> None:
    """Raises the InputError of `from_torch`."""
    _, _, shapes = _expected(template, table)
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
            f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in complaints.items() if keys
        )
        raise InputError(f"{where}: the weights do not fit the model: {one_line(told)}")


def _expected(template: Params, table: KeyTable) -> tuple[dict, dict, dict]:
    """Of every leaf: its key, its axes in the file's order; and by key, its shape in the file."""
    flat = traverse_util.flatten_dict(template)
    keys = {path: _key(path, table) for path in flat}
    axes = {path: _torch_axes(path, len(leaf.shape)) for path, leaf in flat.items()}
    shapes = {keys[path]: tuple(leaf.shape[axis] for axis in axes[path]) for path, leaf in flat.items()}
    return keys, axes, shapes


def _key(path: LeafPath, table: KeyTable) -> str:
    whole = "/".join(path)
    if whole in table:
        return table[whole]
    return f"{table['/'.join(path[:-1])]}.{LEAF_NAMES[path[-1]]}"


def _torch_axes(path: LeafPath, rank: int) -> tuple[int, ...]:
    if path[-1] != "kernel":
        return tuple(range(rank))
    return {2: DENSE_AXES, 4: CONV_AXES}[rank]


def _fits(tensor: np.ndarray, shape: tuple[int, ...]) -> bool:
    return tensor.shape == shape and jnp.issubdtype(tensor.dtype, jnp.floating)  # bfloat16 is a jnp float

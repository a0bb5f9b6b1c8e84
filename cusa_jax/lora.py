"""LoRA: matrices are trained by a product of two thin ones that is added to them (Hu et al. 2022, arXiv:2106.09685).

The thin matrices are a tree of their own beside the parameters, shaped like them:
{'image': {…: {'kernel': {'a': [in, rank], 'b': [rank, out]}}}}. A model sees `merge` of both, in a training step, in an
evaluation and in a file alike, and no module knows of it.
"""

from __future__ import annotations

import re
import zlib

import jax
import jax.numpy as jnp
from flax import traverse_util

from cusa_jax.errors import InputError
from cusa_jax.types import Params

# The projections of attention and MLPs, of both towers.
PROJECTIONS = r"(image|text)/.*/(in_proj|out_proj|fc|proj)/kernel"

LeafPath = tuple[str, ...]


def init(params: Params, pattern: str, rank: int, key: jax.Array) -> Params:
    """The thin matrices of every matrix whose whole path matches the regular expression: a is random, b is zero.

    params: a tree of anything with shapes. Paths are as in 'image/transformer/block_0/attn/in_proj/kernel'; a fused
    projection has one `a` for its queries, keys and values.
    a is drawn as a dense layer's kernel is in PyTorch, from U(-1/√in, 1/√in); float32.
    Raises InputError for a pattern that is none or matches no matrix, and for a rank that a matrix cannot have.
    """
    lora = {}
    for path, (inputs, outputs) in _matching(params, pattern).items():
        name = "/".join(path)
        if not 1 <= rank <= min(inputs, outputs):
            raise InputError(
                f"lora: rank {rank} for {name}, which is {inputs} x {outputs}: take 1 to {min(inputs, outputs)}"
            )
        # Each draws from its own key, so that another pattern leaves the others as they were.
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        bound = inputs**-0.5
        lora[*path, "a"] = jax.random.uniform(own, (inputs, rank), jnp.float32, -bound, bound)
        lora[*path, "b"] = jnp.zeros((rank, outputs), jnp.float32)
    return traverse_util.unflatten_dict(lora)


def merge(params: Params, lora: Params, scale: float) -> Params:
    """Parameters with scale · a b added to the matrices that have them: an ordinary model. scale: alpha / rank.

    Raises InputError where the two trees do not belong together.
    """
    merged = dict(traverse_util.flatten_dict(params))
    thin = traverse_util.flatten_dict(lora)
    for path in {path[:-1]: None for path in thin}:
        a, b = thin[*path, "a"], thin[*path, "b"]
        if path not in merged or merged[path].shape != (a.shape[0], b.shape[1]):
            has = f"of shape {merged[path].shape}" if path in merged else "not among the model's parameters"
            raise InputError(f"lora: {'/'.join(path)} is {has}, but trained was {a.shape[0]} x {b.shape[1]}")
        merged[path] = merged[path] + scale * jnp.matmul(a, b, precision="highest")
    return traverse_util.unflatten_dict(merged)


def _matching(params: Params, pattern: str) -> dict[LeafPath, tuple[int, int]]:
    shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(params).items()}
    try:
        matching = {path: shape for path, shape in shapes.items() if re.fullmatch(pattern, "/".join(path))}
    except re.error as error:
        raise InputError(f"lora: '{pattern}' is no regular expression ({error})") from error
    matrices = {path: shape for path, shape in matching.items() if len(shape) == 2}
    if not matrices:
        example = next("/".join(path) for path, shape in shapes.items() if len(shape) == 2)
        what = f"only vectors, such as {'/'.join(next(iter(matching)))}" if matching else "nothing"
        raise InputError(f"lora: '{pattern}' matches {what}; a path of a matrix is {example}")
    return matrices

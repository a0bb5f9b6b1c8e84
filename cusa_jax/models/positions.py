"""A vision tower at another resolution: its learned positions, a grid of vectors, are interpolated."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cusa_jax.models.student import Variables
from cusa_jax.types import Array


def at_image_size(variables: Variables, sizes: Any, image_size: int) -> tuple[Variables, Any]:
    """(variables, sizes) of the same model, CLIP's or SigLIP's, for pictures of `image_size` pixels per side.

    Raises InputError where patches do not tile pictures of that size, as CLIP's must.
    """
    resized = dataclasses.replace(sizes, image_size=image_size)
    grids = (of.image_size // of.patch_size for of in (sizes, resized))
    flat = traverse_util.flatten_dict(variables)
    # A ResNet has its positions in the attention pool.
    path = next(path for path in flat if path[:2] == ("params", "image") and path[-1] == "position_embedding")
    flat[path] = resize(flat[path], *grids)
    return traverse_util.unflatten_dict(flat), resized


def resize(positions: Array, grid: int, new_grid: int) -> Array:
    """Positions [k + grid², W] -> [k + new_grid², W], the grid by rows; the first k, a class token's, stay as they are.

    Bicubic with antialiasing, as open_clip, torch's `interpolate` with antialias and Pillow do it: Keys' kernel with
    a = -1/2 at pixel centres, its weights normalised at the border. Hugging Face's `interpolate_pos_encoding` differs a
    little: a = -3/4, no antialiasing, a repeated border.
    """
    if new_grid == grid:
        return positions
    kept = len(positions) - grid * grid
    width = positions.shape[1]
    table = jnp.asarray(positions[kept:]).reshape(grid, grid, width)
    table = jax.image.resize(table, (new_grid, new_grid, width), "cubic", antialias=True)
    return np.concatenate([positions[:kept], np.asarray(table).reshape(-1, width)])

"""A vision tower at another resolution: its learned positions, a grid of vectors, are interpolated."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cusa_jax.errors import InputError
from cusa_jax.models.student import Variables
from cusa_jax.types import Array


def at_image_size(variables: Variables, sizes: Any, image_size: int) -> tuple[Variables, Any]:
    """(variables, sizes) of the same model, CLIP's or SigLIP's, for pictures of `image_size` pixels per side.

    image_size: as `config.model.image_size` says it; 0 is the model's own.
    Raises InputError as `resized` does.
    """
    larger = resized(sizes, image_size)
    if larger == sizes:
        return variables, sizes
    grids = (of.image_size // of.patch_size for of in (sizes, larger))
    flat = traverse_util.flatten_dict(variables)
    # A ResNet has its positions in the attention pool.
    path = next(path for path in flat if path[:2] == ("params", "image") and path[-1] == "position_embedding")
    flat[path] = resize(flat[path], *grids)
    return traverse_util.unflatten_dict(flat), larger


def resized(sizes: Any, image_size: int) -> Any:
    """Sizes for pictures of `image_size` pixels per side; 0 leaves them as they are.

    Raises InputError for a model that takes no pictures, where not one patch fits, and where patches do not tile a
    picture, as CLIP's must.
    """
    if not image_size:
        return sizes
    if not hasattr(sizes, "image_size"):
        raise InputError(f"config.model.image_size={image_size}: the model takes no pictures; set it to 0")
    if image_size < sizes.patch_size:
        raise InputError(
            f"config.model.image_size={image_size} is less than a patch, {sizes.patch_size} pixels a side"
        )
    try:
        return dataclasses.replace(sizes, image_size=image_size)
    except InputError as error:
        raise InputError(f"config.model.image_size={image_size}: {error}") from error


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


def resize_as_torch(positions: Array, grid: int, new_grid: int) -> Array:
    """As `resize`, by the other bicubic kernel: a = -3/4, no antialiasing, the border repeated.

    That is torch's `interpolate(mode='bicubic')`, by which Hugging Face's DINOv2 fits its positions to a picture.
    """
    if new_grid == grid:
        return positions
    kept = len(positions) - grid * grid
    centres = (np.arange(new_grid) + 0.5) * grid / new_grid - 0.5
    nearest = np.floor(centres).astype(int)
    weights = np.zeros((new_grid, grid))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(centres - (nearest + offset))
        column = np.clip(nearest + offset, 0, grid - 1)
        np.add.at(weights, (np.arange(new_grid), column), _cubic(distance, -0.75))
    table = np.asarray(positions[kept:], np.float64).reshape(grid, grid, -1)
    resized = np.einsum("ia,jb,abw->ijw", weights, weights, table).reshape(new_grid**2, -1)
    return np.concatenate([positions[:kept], resized.astype(positions.dtype)])


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel (1981, IEEE TASSP 29(6), eq. 15 for a = -1/2) at distances of 0 to 2."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)

"""Image teachers from Hugging Face folders of vision towers: their pixels, their positions, their features."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import jax
import numpy as np

from cusa_jax.data.images import normalise
from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.models.positions import resize_as_torch
from cusa_jax.teachers import checkpoints
from cusa_jax.teachers.folder import ModelFolder, read_json
from cusa_jax.teachers.resnet import ResNet
from cusa_jax.teachers.vision_transformer import VisionConfig, VisionTransformer
from cusa_jax.types import Params, Teacher


def load_vision_transformer(folder: ModelFolder, *, patches: bool = False) -> tuple[Teacher, Params]:
    """A vision transformer and its parameters; features are its class token, float32 [B, D].

    patches: features are the states of all patches instead, float32 [B, patches, D].
    Pixels are normalised as preprocessor_config.json says; they are resized as the student's are (CLIP's
    bicubic resize and centre crop), whatever resampling the file names.
    """
    config, params = checkpoints.load(folder.path, folder.config)
    expected = _read_preprocessing(folder.path)
    if expected.size != config.image_size:
        config, params = _at_size(folder.path, config, params, expected.size)
    model = VisionTransformer(config, folder.dtype, patches)

    def apply(params: Params, pixels: jax.Array) -> jax.Array:
        normalised = normalise(pixels, mean=expected.mean, std=expected.std)
        return cast(jax.Array, model.apply({"params": params}, normalised))

    return Teacher(folder.name, apply, "pixels", image=expected), params


def load_resnet(folder: ModelFolder, *, patches: bool = False) -> tuple[Teacher, Params]:
    """As `load_vision_transformer`: features are the mean of the last feature map; its places are the patches."""
    config, params = checkpoints.load(folder.path, folder.config)
    expected = _read_preprocessing(folder.path)
    model = ResNet(config, folder.dtype)

    def apply(params: Params, pixels: jax.Array) -> jax.Array:
        places = cast(
            jax.Array,
            model.apply({"params": params}, normalise(pixels, mean=expected.mean, std=expected.std)),
        )
        places = places.reshape(len(places), -1, places.shape[-1])
        return places if patches else places.mean(axis=1)

    return Teacher(folder.name, apply, "pixels", image=expected), params


def _at_size(path: Path, config: VisionConfig, params: Params, size: int) -> tuple[VisionConfig, Params]:
    """DINOv2 fits its positions to pictures of any size; the others are defined for one."""
    if not config.any_image_size:
        raise InputError(f"{path}: preprocessor_config.json has {size} pixels, the model {config.image_size}")
    try:
        resized = dataclasses.replace(config, image_size=size)
    except InputError as error:
        raise InputError(f"{path}/preprocessor_config.json: {error}") from None
    table = resize_as_torch(np.asarray(params["positions"][0]), config.grid, resized.grid)
    return resized, params | {"positions": table[None]}


def _read_preprocessing(folder: Path) -> Pixels:
    """Size after all cropping, mean and std, of preprocessor_config.json."""
    path = folder / "preprocessor_config.json"
    raw = read_json(path, "it says how the image teacher normalises pixels")
    try:
        size = raw["crop_size"] if raw.get("do_center_crop") else raw["size"]
        if isinstance(size, dict):
            size = size["height"] if "height" in size else size["shortest_edge"]
        mean, std = (tuple(float(value) for value in raw[key]) for key in ("image_mean", "image_std"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: needs size, image_mean and image_std ({error!r})") from error
    if type(size) is not int:
        raise InputError(f"{path}: size {size!r} is not a whole number")
    try:
        return Pixels(size, mean, std)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None

"""Live teachers, by the `model_type` of a model folder's config.json, or UNICOM's released file.

A program adds its own by an entry in one of the two tables, before it loads any:

    IMAGE_TEACHERS["my_model"] = load_my_model   # ModelFolder -> (Teacher, params)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp

from cusa_jax.data.images import normalise
from cusa_jax.errors import InputError
from cusa_jax.teachers import checkpoints, transformers_flax
from cusa_jax.teachers.bert import Bert, BertConfig
from cusa_jax.teachers.folder import Loader, ModelFolder, locate, read_json
from cusa_jax.teachers.image import load_resnet, load_vision_transformer
from cusa_jax.teachers.mpnet import MPNet, MPNetConfig
from cusa_jax.teachers.text import TextEncoder, text_teacher
from cusa_jax.teachers.unicom import Unicom, UnicomConfig
from cusa_jax.types import Params, Teacher


def load_text_teacher(source: str, *, max_length: int, dtype: str = "float32") -> tuple[Teacher, Params]:
    """The text teacher at `source`, and its parameters on the host.

    source: a model folder, or a Hugging Face id.
    max_length: tokens after which a caption is cut, where the teacher sets no smaller limit itself.
    dtype: 'float32' or 'bfloat16', in which it computes; parameters and features are float32.

    Raises InputError where the source, or one of its files, is missing or not what it must be.
    """
    return _load(source, locate(source), dtype, max_length, TEXT_TEACHERS, "text")


def load_image_teacher(source: str, *, dtype: str = "float32") -> tuple[Teacher, Params]:
    """The image teacher at `source`, which may also be UNICOM's released `.pt`. The rest as for text."""
    path = locate(source, ".pt")
    if path.is_file():
        config, params = checkpoints.read_unicom(path)
        return unicom_teacher(source, config, jnp.dtype(dtype)), params
    return _load(source, path, dtype, 0, IMAGE_TEACHERS, "image")


def load_patches(source: str, *, dtype: str = "float32") -> tuple[Teacher, Params]:
    """As `load_image_teacher`, of the patches or places of a picture: apply returns float32 [B, patches, D]."""
    known: dict[str, Loader] = {name: partial(load, patches=True) for name, load in _VISION_TOWERS.items()}
    return _load(source, locate(source), dtype, 0, known, "image")


def unicom_teacher(name: str, config: UnicomConfig, dtype: jnp.dtype) -> Teacher:
    """UNICOM as a teacher, for parameters of `Unicom(config)`."""
    model = Unicom(config, dtype)

    def apply(params: Params, pixels: jax.Array) -> jax.Array:
        normalised = normalise(pixels, mean=config.mean, std=config.std)
        return cast(jax.Array, model.apply({"params": params}, normalised))

    return Teacher(name, apply, "pixels", image=config.pixels)


def text_encoder(config: MPNetConfig | BertConfig, dtype: jnp.dtype) -> TextEncoder:
    """MPNet, BERT or RoBERTa as the encoder of a text teacher, for parameters of its module."""
    model = MPNet(config, dtype) if isinstance(config, MPNetConfig) else Bert(config, dtype)

    def states(params: Params, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply({"params": params}, input_ids, attention_mask))

    return TextEncoder(states, config.max_tokens, config.vocab_size, config.pad_token_id)


def _load_text(folder: ModelFolder) -> tuple[Teacher, Params]:
    config, params = checkpoints.load(folder.path, folder.config)
    return text_teacher(folder, text_encoder(config, folder.dtype)), params


def _load_unicom(folder: ModelFolder) -> tuple[Teacher, Params]:
    config, params = checkpoints.load(folder.path, folder.config)
    return unicom_teacher(folder.name, config, folder.dtype), params


TEXT_TEACHERS: dict[str, Loader] = {
    **dict.fromkeys(checkpoints.TEXT_MODELS, _load_text),
    **dict.fromkeys(transformers_flax.TEXT_MODELS, transformers_flax.load_text_teacher),
}
_VISION_TOWERS = {
    **dict.fromkeys(checkpoints.VISION_TRANSFORMERS, load_vision_transformer),
    "resnet": load_resnet,
}
IMAGE_TEACHERS: dict[str, Loader] = {"unicom": _load_unicom, **_VISION_TOWERS}


def _load(
    source: str, path: Path, dtype: str, max_length: int, known: Mapping[str, Loader], modality: str
) -> tuple[Teacher, Params]:
    file = path / "config.json"
    config = read_json(file, "a model folder holds config.json and model.safetensors")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise InputError(f"{file}: model_type is {model_type!r}; {modality} teachers are {', '.join(known)}")
    return known[model_type](ModelFolder(source, path, config, jnp.dtype(dtype), max_length))

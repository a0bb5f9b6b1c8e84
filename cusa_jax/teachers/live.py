"""Live teachers by name: a Hugging Face id, a local model folder, or UNICOM's file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp

from cusa_jax.data.images import normalise
from cusa_jax.errors import InputError
from cusa_jax.teachers import own, transformers_flax
from cusa_jax.teachers.folder import locate, read_json
from cusa_jax.teachers.mpnet import MPNet
from cusa_jax.teachers.text import TextEncoder, text_teacher
from cusa_jax.teachers.unicom import Unicom, UnicomConfig
from cusa_jax.types import Params, Teacher


def load_text_teacher(source: str, *, max_length: int, dtype: str = "float32") -> Teacher:
    """The text teacher at `source`, whose features have length 1.

    max_length: tokens after which text is cut, where the teacher sets no smaller limit itself.
    dtype: 'float32' or 'bfloat16', in which it computes; parameters and features are float32.

    Raises InputError where the source, or one of its files, is missing or not what it must be.
    """
    path = locate(source)
    config = _read_config(path, ("mpnet", *transformers_flax.TEXT_MODELS), "text")
    if config["model_type"] == "mpnet":
        encoder = _mpnet_encoder(path, config, jnp.dtype(dtype))
    else:
        encoder = transformers_flax.text_encoder(path, config, jnp.dtype(dtype))
    return text_teacher(source, path, encoder, max_length)


def load_image_teacher(source: str, *, dtype: str = "float32") -> Teacher:
    """The image teacher at `source`. The rest as for text."""
    path = locate(source, ".pt")
    if path.is_file():
        return unicom_teacher(source, *own.read_unicom(path), jnp.dtype(dtype))
    config = _read_config(path, ("unicom", *transformers_flax.IMAGE_MODELS), "image")
    if config["model_type"] == "unicom":
        return unicom_teacher(source, *own.load(path, config), jnp.dtype(dtype))
    return transformers_flax.image_teacher(source, path, config, jnp.dtype(dtype))


def _read_config(folder: Path, known: Sequence[str], modality: str) -> dict[str, Any]:
    path = folder / "config.json"
    config = read_json(path, "a model folder holds config.json and model.safetensors")
    if config.get("model_type") not in known:
        raise InputError(
            f"{path}: model_type is {config.get('model_type')!r}; {modality} teachers are {', '.join(known)}"
        )
    return config


def _mpnet_encoder(folder: Path, raw_config: dict[str, Any], dtype: jnp.dtype) -> TextEncoder:
    config, params = own.load(folder, raw_config)
    model = MPNet(config, dtype)

    def states(params: Params, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply({"params": params}, input_ids, attention_mask))

    return TextEncoder(params, states, config.max_tokens, config.vocab_size, config.pad_token_id)


def unicom_teacher(name: str, config: UnicomConfig, params: Params, dtype: jnp.dtype) -> Teacher:
    """UNICOM as a teacher; params: arrays, or their shapes where nothing is to be run yet."""
    model = Unicom(config, dtype)

    def apply(params: Params, pixels: jax.Array) -> jax.Array:
        normalised = normalise(pixels, mean=config.mean, std=config.std)
        return cast(jax.Array, model.apply({"params": params}, normalised))

    return Teacher(name=name, params=params, apply=apply, inputs="pixels", image_size=config.image_size)

"""Teachers from the Flax classes of `transformers` (pinned below 5, the last release that has them)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from flax import traverse_util
from transformers.modeling_flax_pytorch_utils import rename_key_and_reshape_tensor

from cusa_jax.data.images import normalise
from cusa_jax.errors import InputError
from cusa_jax.teachers.folder import read_json
from cusa_jax.teachers.text import TextEncoder
from cusa_jax.types import Params, Teacher
from cusa_jax.weights.torch_layout import read_folder

# The pinned release says with every model that its Flax classes will go; the pin is the answer.
logging.getLogger("transformers.modeling_flax_utils").addFilter(
    lambda record: "JAX classes are deprecated" not in record.getMessage()
)

# model_type of config.json -> class, by name: transformers imports a model where it is first mentioned. Listed
# are those whose numbers were checked against PyTorch's; FlaxElectraModel, for one, gives others.
TEXT_MODELS = {
    "albert": "FlaxAlbertModel",
    "bert": "FlaxBertModel",
    "distilbert": "FlaxDistilBertModel",
    "roberta": "FlaxRobertaModel",
    "xlm-roberta": "FlaxXLMRobertaModel",
}
# With what stands for an image: the class token after the last LayerNorm. CLIP applies that in its pooler;
# the poolers of ViT (a tanh layer, often untrained) and DINOv2 (the class token again) are not used. Where
# DINOv2 must interpolate its positions to another image size, Flax and PyTorch differ by about one per cent.
IMAGE_MODELS = {
    "vit": ("FlaxViTModel", "last_hidden_state"),
    "dinov2": ("FlaxDinov2Model", "last_hidden_state"),
    "clip": ("FlaxCLIPVisionModel", "pooler_output"),
    "clip_vision_model": ("FlaxCLIPVisionModel", "pooler_output"),
}
_UNUSED = "pooler"  # may be missing: nothing above reads the output of parameters of this name


def text_encoder(folder: Path, config: Mapping[str, Any], dtype: jnp.dtype) -> TextEncoder:
    """A BERT-like encoder. config: its config.json. dtype: of the computation."""
    model, params = _load(TEXT_MODELS[config["model_type"]], folder, dtype)

    def states(params: Params, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        output = model(input_ids, attention_mask, params=params, train=False)
        return output.last_hidden_state.astype(jnp.float32)

    positions, pad = model.config.max_position_embeddings, model.config.pad_token_id or 0
    if config["model_type"] in ("roberta", "xlm-roberta"):
        positions -= pad + 1  # the first token has position pad + 1
    return TextEncoder(params, states, positions, model.config.vocab_size, pad)


def image_teacher(name: str, folder: Path, config: Mapping[str, Any], dtype: jnp.dtype) -> Teacher:
    """A vision transformer; features are its class token, float32 [B, D].

    Pixels are normalised as preprocessor_config.json says; they are resized as the student's are (CLIP's
    bicubic resize and centre crop), whatever resampling the file names.
    """
    model_type = config["model_type"]
    class_name, feature = IMAGE_MODELS[model_type]
    model, params = _load(class_name, folder, dtype)
    size, mean, std = _read_preprocessing(folder)
    if size != model.config.image_size and model_type != "dinov2":  # which interpolates its positions
        raise InputError(
            f"{folder}: preprocessor_config.json has {size} pixels, the model {model.config.image_size}"
        )

    def apply(params: Params, pixels: jax.Array) -> jax.Array:
        channels_first = normalise(pixels, mean=mean, std=std).transpose(0, 3, 1, 2)
        output = model(channels_first, params=params, train=False)[feature]
        return (output[:, 0] if output.ndim == 3 else output).astype(jnp.float32)

    return Teacher(name=name, params=params, apply=apply, inputs="pixels", image_size=size)


def _read_preprocessing(folder: Path) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Pixels per side after all cropping, mean and std, of preprocessor_config.json."""
    path = folder / "preprocessor_config.json"
    raw = read_json(path, "it says how the image teacher normalises pixels")
    try:
        size = raw["crop_size"] if raw.get("do_center_crop") else raw["size"]
        if isinstance(size, dict):
            size = size["height"] if "height" in size else size["shortest_edge"]
        mean, std = (tuple(float(value) for value in raw[key]) for key in ("image_mean", "image_std"))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: needs size, image_mean and image_std ({error!r})") from error
    if not isinstance(size, int) or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise InputError(f"{path}: size must be a whole number, image_mean and image_std three numbers each")
    return size, mean, std


def _load(class_name: str, folder: Path, dtype: jnp.dtype) -> tuple[Any, Params]:
    """The model without parameters, and its parameters as float32 numpy arrays.

    Not `from_pretrained`, which draws random values for whatever the file lacks, and on the device.
    """
    try:
        model_class = getattr(transformers, class_name)
        config = model_class.config_class.from_pretrained(folder)
        model = model_class(config, dtype=dtype, _do_init=False)
    except Exception as error:  # a wrong config.json can make the library raise almost anything
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder}/config.json: transformers cannot build {class_name} ({reason})"
        ) from error

    template = traverse_util.flatten_dict(model.params_shape_tree)
    found = _flax_names(read_folder(folder), template, model_class.base_model_prefix)
    missing = ["/".join(path) for path in template if path not in found and _UNUSED not in path]
    unfit = [
        f"{'/'.join(path)} {found[path].shape} for {leaf.shape}"
        for path, leaf in template.items()
        if path in found and found[path].shape != leaf.shape
    ]
    if missing or unfit:
        told = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys)}"
            for what, keys in (("missing", missing), ("unfit", unfit))
            if keys
        )
        raise InputError(
            f"{folder}: the weights are not those of the model that its config.json describes: {told}"
        )
    params = {
        path: np.asarray(found.get(path, np.zeros(leaf.shape)), np.float32) for path, leaf in template.items()
    }
    return model, traverse_util.unflatten_dict(params)


def _flax_names(
    tensors: Mapping[str, np.ndarray], template: dict[Any, Any], prefix: str
) -> dict[Any, np.ndarray]:
    """PyTorch's tensors by Flax path and in Flax layouts; a head that the model lacks keeps its names."""
    renamed = {}
    for key, tensor in tensors.items():
        path: Any = tuple(key.split("."))
        if path[0] == prefix and all(known[0] != prefix for known in template):  # saved with a head
            path = path[1:]
        path, tensor = rename_key_and_reshape_tensor(path, tensor, template, prefix)
        renamed[path] = tensor
    return renamed

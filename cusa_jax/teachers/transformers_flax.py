"""Teachers from the Flax classes of `transformers` (pinned below 5, the last release that has them)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cusa_jax.data.images import normalise
from cusa_jax.errors import InputError, needs, one_line
from cusa_jax.inputs import Pixels
from cusa_jax.teachers.checkpoints import check_depth
from cusa_jax.teachers.folder import ModelFolder, read_json
from cusa_jax.teachers.text import TextEncoder, text_teacher
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
# Parameters of this name may be missing: nothing above reads what is computed from them.
_UNUSED = "pooler"


def load_text_teacher(folder: ModelFolder) -> tuple[Teacher, Params]:
    """A BERT-like text teacher, of one of TEXT_MODELS, and its parameters."""
    model_type = folder.config["model_type"]
    model, params = _load(TEXT_MODELS[model_type], folder)
    vocab_size, pad = model.config.vocab_size, model.config.pad_token_id or 0
    if not isinstance(pad, int) or not 0 <= pad < vocab_size:
        raise InputError(
            f"{folder.path}/config.json: pad_token_id = {pad!r} is not one of the {vocab_size} tokens"
        )

    def states(params: Params, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        output = model(input_ids, attention_mask, params=params, train=False)
        return output.last_hidden_state.astype(jnp.float32)

    positions = model.config.max_position_embeddings
    # The first token of RoBERTa has position pad + 1.
    if model_type in ("roberta", "xlm-roberta"):
        positions -= pad + 1
    return text_teacher(folder, TextEncoder(states, positions, vocab_size, pad)), params


def load_image_teacher(folder: ModelFolder) -> tuple[Teacher, Params]:
    """A vision transformer, of one of IMAGE_MODELS, and its parameters; features are its class token, float32 [B, D].

    Pixels are normalised as preprocessor_config.json says; they are resized as the student's are (CLIP's
    bicubic resize and centre crop), whatever resampling the file names.
    """
    return _vision(folder, patches=False)


def load_patches(folder: ModelFolder) -> tuple[Teacher, Params]:
    """The same models, whose features are those of all patches, float32 [B, patches, D], without the class token."""
    return _vision(folder, patches=True)


def _vision(folder: ModelFolder, *, patches: bool) -> tuple[Teacher, Params]:
    model_type = folder.config["model_type"]
    class_name, output_name = IMAGE_MODELS[model_type]
    model, params = _load(class_name, folder)
    expected = _read_preprocessing(folder.path)
    # DINOv2 interpolates its positions to any size.
    if expected.size != model.config.image_size and model_type != "dinov2":
        raise InputError(
            f"{folder.path}: preprocessor_config.json has {expected.size} pixels, the model {model.config.image_size}"
        )

    def apply(params: Params, pixels: jax.Array) -> jax.Array:
        normalised = normalise(pixels, mean=expected.mean, std=expected.std)
        outputs = model(normalised.transpose(0, 3, 1, 2), params=params, train=False)
        if patches:
            return outputs["last_hidden_state"][:, 1:].astype(jnp.float32)
        output = outputs[output_name]
        return (output[:, 0] if output.ndim == 3 else output).astype(jnp.float32)

    return Teacher(folder.name, apply, "pixels", image=expected), params


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


def _load(class_name: str, folder: ModelFolder) -> tuple[Any, Params]:
    """The model without parameters, and its parameters as float32 numpy arrays.

    Not the model class's `from_pretrained`, which draws random values for whatever the file lacks, and on the device.
    """
    # Imported here because it takes seconds, and a run whose teachers are others does without.
    with needs("teachers"):
        import transformers

    tensors = read_folder(folder.path)
    for sizes in (folder.config, folder.config.get("vision_config")):
        layers = sizes.get("num_hidden_layers") if isinstance(sizes, dict) else None
        check_depth(layers if isinstance(layers, int) else 0, tensors, folder.path)
    try:
        model_class = getattr(transformers, class_name)
        # A folder's own code is never run, whatever its config.json asks for.
        config = model_class.config_class.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False
        )
        model = model_class(config, dtype=folder.dtype, _do_init=False)
    except Exception as error:
        # A wrong config.json can make the library raise almost anything.
        reason = one_line(" ".join(str(error).split()))
        raise InputError(
            f"{folder.path}/config.json: transformers cannot build {class_name} ({reason})"
        ) from error

    template = traverse_util.flatten_dict(model.params_shape_tree)
    leaves = _flax_leaves(tensors, template, model_class.base_model_prefix)
    missing = ["/".join(path) for path in template if path not in leaves and _UNUSED not in path]
    unfit = [
        f"{'/'.join(path)} {leaves[path].shape} for {leaf.shape}"
        for path, leaf in template.items()
        if path in leaves and leaves[path].shape != leaf.shape
    ]
    if missing or unfit:
        faults = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys)}"
            for what, keys in (("missing", missing), ("unfit", unfit))
            if keys
        )
        raise InputError(
            f"{folder.path}: the weights are not those of the model that its config.json describes: {faults}"
        )
    params = {
        path: np.asarray(leaves.get(path, np.zeros(leaf.shape)), np.float32)
        for path, leaf in template.items()
    }
    return model, traverse_util.unflatten_dict(params)


def _flax_leaves(
    tensors: Mapping[str, np.ndarray], template: dict[Any, Any], prefix: str
) -> dict[Any, np.ndarray]:
    """PyTorch's tensors by Flax path and in Flax layouts; a head that the model lacks keeps its names."""
    from transformers.modeling_flax_pytorch_utils import rename_key_and_reshape_tensor

    leaves = {}
    for key, tensor in tensors.items():
        path: Any = tuple(key.split("."))
        # Such a prefix is there when the model was saved with a head.
        if path[0] == prefix and all(known[0] != prefix for known in template):
            path = path[1:]
        path, tensor = rename_key_and_reshape_tensor(path, tensor, template, prefix)
        leaves[path] = tensor
    return leaves

"""Teachers from the Flax classes of `transformers` (pinned below 5, the last release that has them)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cusa_jax.errors import InputError, needs, one_line
from cusa_jax.teachers.checkpoints import check_depth
from cusa_jax.teachers.folder import ModelFolder
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
    "distilbert": "FlaxDistilBertModel",
}
# Parameters of this name may be missing: nothing above reads what is computed from them.
_UNUSED = "pooler"


def load_text_teacher(folder: ModelFolder) -> tuple[Teacher, Params]:
    """A text teacher of one of TEXT_MODELS, and its parameters."""
    model, params = _load(TEXT_MODELS[folder.config["model_type"]], folder)
    vocab_size, pad = model.config.vocab_size, model.config.pad_token_id or 0
    if not isinstance(pad, int) or not 0 <= pad < vocab_size:
        raise InputError(
            f"{folder.path}/config.json: pad_token_id = {pad!r} is not one of the {vocab_size} tokens"
        )

    def states(params: Params, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        output = model(input_ids, attention_mask, params=params, train=False)
        return output.last_hidden_state.astype(jnp.float32)

    positions = model.config.max_position_embeddings
    return text_teacher(folder, TextEncoder(states, positions, vocab_size, pad)), params


def _load(class_name: str, folder: ModelFolder) -> tuple[Any, Params]:
    """The model without parameters, and its parameters as float32 numpy arrays.

    Not the model class's `from_pretrained`, which draws random values for whatever the file lacks, and on the device.
    """
    # Imported here because it takes seconds, and a run whose teachers are others does without.
    with needs("teachers"):
        import transformers

    tensors = read_folder(folder.path)
    layers = folder.config.get("num_hidden_layers")
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

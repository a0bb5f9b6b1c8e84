"""open_clip's checkpoints: OpenAI's key names under prefixes, and folders with open_clip_config.json."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cusa_jax.data.images import CLIP_MEAN, CLIP_STD
from cusa_jax.errors import InputError
from cusa_jax.jsonfile import MOST_LAYERS, read_json, size
from cusa_jax.models.clip import ClipConfig
from cusa_jax.weights.openai import known_activation
from cusa_jax.weights.torch_layout import read_folder

CONFIG = "open_clip_config.json"
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def openai_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without what wrappers put before every name, and `text.` before those of the text tower (CustomTextCLIP)."""
    names = {name: name for name in tensors}
    for wrapper in _WRAPPERS * 2:
        if all(ours.startswith(wrapper) for ours in names.values()):
            names = {theirs: ours.removeprefix(wrapper) for theirs, ours in names.items()}
    return {ours.removeprefix("text."): tensors[theirs] for theirs, ours in names.items()}


def read_open_clip(folder: Path, activation: str) -> tuple[ClipConfig, dict[str, np.ndarray]]:
    """Sizes and OpenAI-named tensors of a folder as open_clip pushes it to the Hub.

    Raises InputError for missing, damaged or contradictory files, and for models with parts that no CLIP of
    OpenAI's has.
    """
    path = folder / CONFIG
    try:
        raw = read_json(path, "get it again")
        model = raw["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        for key in ("mean", "std"):
            wanted = CLIP_MEAN if key == "mean" else CLIP_STD
            given = raw.get("preprocess_cfg", {}).get(key, wanted)
            if not np.allclose(given, wanted, atol=1e-6):
                raise InputError(
                    f"{path}: trained on pixels of {key} {given}; only CLIP's, {wanted}, is supported"
                )
        config = ClipConfig(
            embed_dim=size(model, "embed_dim", path),
            image_size=size(vision, "image_size", path),
            patch_size=size(vision, "patch_size", path),
            vision_width=size(vision, "width", path),
            vision_layers=size(vision, "layers", path, at_most=MOST_LAYERS),
            vision_heads=size(vision, "width", path) // size(vision, "head_width", path, 64),
            text_width=size(text, "width", path),
            text_layers=size(text, "layers", path, at_most=MOST_LAYERS),
            text_heads=size(text, "heads", path),
            context_length=size(text, "context_length", path, 77),
            vocab_size=size(text, "vocab_size", path, 49408),
            activation=known_activation(
                "quick_gelu" if model.get("quick_gelu") else "gelu", activation, path
            ),
        )
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"{path}: not the configuration of a CLIP with two transformers ({error!r})"
        ) from error
    return config, openai_names(read_folder(folder, "open_clip_model", "open_clip_pytorch_model"))

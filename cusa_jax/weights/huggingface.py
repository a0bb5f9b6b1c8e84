"""Hugging Face `CLIPModel` folders: config.json + model.safetensors."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.layers import ACTIVATIONS
from cusa_jax.weights.torch_layout import read_safetensors

_TOP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}
_NORMS = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # the library's own spelling
    "vision_model.post_layernorm": "visual.ln_post",
}
_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def read_clip(folder: str | Path) -> tuple[ClipConfig, dict[str, np.ndarray]]:
    """Sizes and OpenAI-named tensors of a folder. Tensors with unknown names keep them, for the strict loader.

    Raises InputError for missing, damaged or contradictory files.
    """
    folder = Path(folder)
    config = _read_config(folder)
    tensors = read_safetensors(folder / "model.safetensors")
    return config, _openai_names(tensors, config)


def _read_config(folder: Path) -> ClipConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; init_from takes a Hugging Face CLIP folder (config.json + model.safetensors)"
        )
    try:
        raw = json.loads(path.read_text())
        vision, text = raw["vision_config"], raw["text_config"]
        # Files of openai/clip-vit-base-patch32 leave out what equals the library's defaults, which are B/32's.
        vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
                  "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", **vision}  # fmt: skip
        text = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
                "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu", **text}  # fmt: skip
        config = ClipConfig(
            embed_dim=int(raw.get("projection_dim", 512)),
            image_size=int(vision["image_size"]),
            patch_size=int(vision["patch_size"]),
            vision_width=int(vision["hidden_size"]),
            vision_layers=int(vision["num_hidden_layers"]),
            vision_heads=int(vision["num_attention_heads"]),
            text_width=int(text["hidden_size"]),
            text_layers=int(text["num_hidden_layers"]),
            text_heads=int(text["num_attention_heads"]),
            context_length=int(text["max_position_embeddings"]),
            vocab_size=int(text["vocab_size"]),
            activation=str(vision["hidden_act"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not the configuration of a CLIP model ({error!r})") from error
    _check(path, vision, text)
    return config


def _check(path: Path, vision: dict[str, Any], text: dict[str, Any]) -> None:
    if vision["hidden_act"] != text["hidden_act"] or vision["hidden_act"] not in ACTIVATIONS:
        raise InputError(
            f"{path}: hidden_act is {vision['hidden_act']!r} and {text['hidden_act']!r}; "
            f"both towers must have the same one of {', '.join(ACTIVATIONS)}"
        )
    for name, part in (("vision_config", vision), ("text_config", text)):
        if part["intermediate_size"] != 4 * part["hidden_size"]:
            raise InputError(f"{path}: {name}.intermediate_size must be 4 x hidden_size, as in every CLIP")


def _openai_names(tensors: dict[str, np.ndarray], config: ClipConfig) -> dict[str, np.ndarray]:
    tensors = {key: value for key, value in tensors.items() if not key.endswith(".position_ids")}
    out: dict[str, np.ndarray] = {}

    def move(theirs: str, ours: str) -> None:
        if theirs in tensors:
            out[ours] = tensors.pop(theirs)

    for theirs, ours in _TOP.items():
        move(theirs, ours)
    for theirs, ours in _NORMS.items():
        for leaf in ("weight", "bias"):
            move(f"{theirs}.{leaf}", f"{ours}.{leaf}")
    for tower, ours, layers in (
        ("vision_model", "visual.transformer", config.vision_layers),
        ("text_model", "transformer", config.text_layers),
    ):
        for n in range(layers):
            layer, block = f"{tower}.encoder.layers.{n}", f"{ours}.resblocks.{n}"
            for leaf in ("weight", "bias"):
                for part, name in _BLOCK.items():
                    move(f"{layer}.{part}.{leaf}", f"{block}.{name}.{leaf}")
                qkv = [f"{layer}.self_attn.{part}_proj.{leaf}" for part in "qkv"]
                if all(key in tensors for key in qkv):
                    out[f"{block}.attn.in_proj_{leaf}"] = np.concatenate([tensors.pop(key) for key in qkv])
    # torch.nn.Linear without bias, where OpenAI has a plain matrix: the transpose.
    for name in ("text_projection", "visual.proj"):
        if name in out:
            out[name] = out[name].T
    return out | tensors

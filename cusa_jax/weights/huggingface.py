"""Hugging Face `CLIPModel` folders: config.json and model.safetensors, or pytorch_model.bin."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.data.images import CLIP_MEAN, CLIP_STD
from cusa_jax.errors import InputError
from cusa_jax.jsonfile import MOST_LAYERS, read_json, size, write_json
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.layers import ACTIVATIONS
from cusa_jax.weights.torch_layout import read_folder, write_safetensors

_TOP = {
    "logit_scale": "logit_scale",
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
# torch.nn.Linear without bias, where OpenAI has a plain matrix: the transpose.
_TRANSPOSED = ("text_projection", "visual.proj")
# Position of the end-of-text token: its id, or 2, with which older files mean "the highest id", which it is.
_LEGACY_EOS = 2


def read_clip(folder: str | Path) -> tuple[ClipConfig, dict[str, np.ndarray]]:
    """Sizes and OpenAI-named tensors of a folder. Tensors with unknown names keep them, for the strict loader.

    Raises InputError for missing, damaged or contradictory files.
    """
    folder = Path(folder)
    config = _read_config(folder)
    return config, _openai_names(read_folder(folder), config)


def write_clip(folder: Path, config: ClipConfig, tensors: Mapping[str, np.ndarray]) -> None:
    """The folder of a ViT, with its preprocessing, from OpenAI-named tensors and logit_scale.

    The tokenizer is that of every CLIP: openai/clip-vit-base-patch32's files serve.
    Raises InputError for a ResNet, which the library does not have.
    """
    if "visual.conv1.weight" not in tensors or "visual.proj" not in tensors:
        raise InputError(
            f"{folder}: Hugging Face's CLIPModel has vision transformers only; write a .pt instead"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", _their_names(tensors, config), {"format": "pt"})
    write_json(folder / "preprocessor_config.json", _preprocessing(config.image_size))
    write_json(folder / "config.json", _write_config(config))  # last: without it a folder is no model


def _read_config(folder: Path) -> ClipConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; a folder of weights has one, or open_clip_config.json")
    raw = read_json(path, "get it again")
    vision, text = raw.get("vision_config"), raw.get("text_config")
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise InputError(
            f"{path}: not the configuration of a CLIP model, vision_config or text_config is missing"
        )
    # Files of openai/clip-vit-base-patch32 leave out what equals the library's defaults, which are B/32's.
    vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
              "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", **vision}  # fmt: skip
    text = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
            "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu", **text}  # fmt: skip
    sizes: dict[str, Any] = {
        "embed_dim": size(raw, "projection_dim", path, 512),
        "image_size": size(vision, "image_size", path),
        "patch_size": size(vision, "patch_size", path),
        "vision_width": size(vision, "hidden_size", path),
        "vision_layers": size(vision, "num_hidden_layers", path, at_most=MOST_LAYERS),
        "vision_heads": size(vision, "num_attention_heads", path),
        "text_width": size(text, "hidden_size", path),
        "text_layers": size(text, "num_hidden_layers", path, at_most=MOST_LAYERS),
        "text_heads": size(text, "num_attention_heads", path),
        "context_length": size(text, "max_position_embeddings", path),
        "vocab_size": size(text, "vocab_size", path),
    }
    try:
        config = ClipConfig(**sizes, activation=str(vision["hidden_act"]))
    except (ValueError, ArithmeticError) as error:
        raise InputError(f"{path}: not the configuration of a CLIP model ({error})") from error
    _check(path, vision, text)
    return config


def _check(path: Path, vision: dict[str, Any], text: dict[str, Any]) -> None:
    if vision["hidden_act"] != text["hidden_act"] or str(vision["hidden_act"]) not in ACTIVATIONS:
        raise InputError(
            f"{path}: hidden_act is {vision['hidden_act']!r} and {text['hidden_act']!r}; "
            f"both towers must have the same one of {', '.join(ACTIVATIONS)}"
        )
    for name, part in (("vision_config", vision), ("text_config", text)):
        if part["intermediate_size"] != 4 * part["hidden_size"]:
            raise InputError(f"{path}: {name}.intermediate_size must be 4 x hidden_size, as in every CLIP")
        if part.get("layer_norm_eps", 1e-5) != 1e-5:
            raise InputError(f"{path}: {name}.layer_norm_eps must be 1e-5, as in every CLIP")
    last = text["vocab_size"] - 1
    if text.get("eos_token_id") not in (None, _LEGACY_EOS, last):
        raise InputError(
            f"{path}: text_config.eos_token_id is {text['eos_token_id']!r}; a CLIP's feature is that of its last "
            f"token id ({last}, in older files written as {_LEGACY_EOS})"
        )


def _names(config: ClipConfig) -> dict[str, str]:
    """Their names -> ours, of all tensors but queries, keys and values."""
    modules = _NORMS | {
        f"{theirs}.{part}": f"{ours}.{name}"
        for theirs, ours in _blocks(config)
        for part, name in _BLOCK.items()
    }
    return _TOP | {
        f"{theirs}.{leaf}": f"{ours}.{leaf}"
        for theirs, ours in modules.items()
        for leaf in ("weight", "bias")
    }


def _blocks(config: ClipConfig) -> list[tuple[str, str]]:
    return [
        (f"{tower}.encoder.layers.{n}", f"{ours}.resblocks.{n}")
        for tower, ours, layers in (
            ("vision_model", "visual.transformer", config.vision_layers),
            ("text_model", "transformer", config.text_layers),
        )
        for n in range(layers)
    ]


def _openai_names(tensors: dict[str, np.ndarray], config: ClipConfig) -> dict[str, np.ndarray]:
    tensors = {key: value for key, value in tensors.items() if not key.endswith(".position_ids")}
    out = {ours: tensors.pop(theirs) for theirs, ours in _names(config).items() if theirs in tensors}
    for theirs, ours in _blocks(config):
        for leaf in ("weight", "bias"):
            parts = [f"{theirs}.self_attn.{part}_proj.{leaf}" for part in "qkv"]
            fused = f"{theirs}.self_attn.qkv_proj.{leaf}"  # as some saved them
            if all(key in tensors for key in parts):
                out[f"{ours}.attn.in_proj_{leaf}"] = np.concatenate([tensors.pop(key) for key in parts])
            elif fused in tensors:
                out[f"{ours}.attn.in_proj_{leaf}"] = tensors.pop(fused)
    return out | {name: out[name].T for name in _TRANSPOSED if name in out} | tensors


def _their_names(tensors: Mapping[str, np.ndarray], config: ClipConfig) -> dict[str, np.ndarray]:
    turned = {name: tensors[name].T for name in _TRANSPOSED}
    out = {theirs: turned.get(ours, tensors[ours]) for theirs, ours in _names(config).items()}
    for theirs, ours in _blocks(config):
        for leaf in ("weight", "bias"):
            for part, tensor in zip("qkv", np.split(tensors[f"{ours}.attn.in_proj_{leaf}"], 3), strict=True):
                out[f"{theirs}.self_attn.{part}_proj.{leaf}"] = tensor
    return out


def _write_config(config: ClipConfig) -> dict[str, Any]:
    def tower(kind: str, width: int, layers: int, heads: int) -> dict[str, Any]:
        return {
            "model_type": f"clip_{kind}_model",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "hidden_act": config.activation,
            "layer_norm_eps": 1e-5,
            "projection_dim": config.embed_dim,
        }

    vision = tower("vision", config.vision_width, config.vision_layers, config.vision_heads)
    text = tower("text", config.text_width, config.text_layers, config.text_heads)
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "torch_dtype": "float32",
        "vision_config": vision | {"image_size": config.image_size, "patch_size": config.patch_size},
        "text_config": text
        | {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context_length,
            "bos_token_id": config.vocab_size - 2,
            "eos_token_id": config.vocab_size - 1,
        },
    }


def _preprocessing(image_size: int) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "do_convert_rgb": True,
    }

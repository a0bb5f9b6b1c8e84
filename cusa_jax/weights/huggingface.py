"""Hugging Face's `CLIPModel` folders: config.json, model.safetensors or pytorch_model.bin, preprocessing, tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cusa_jax.errors import InputError
from cusa_jax.files import folder_written_whole
from cusa_jax.jsonfile import MOST_LAYERS, size, write_json
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.families import make_sizes
from cusa_jax.weights import metadata
from cusa_jax.weights.card import write_card
from cusa_jax.weights.config_keys import check_settings
from cusa_jax.weights.folding import refuse_heads
from cusa_jax.weights.format import CONFIG, Format, Source, without_wrappers
from cusa_jax.weights.hub import Weights, template
from cusa_jax.weights.huggingface_tokenizer import check_tokenizer, write_tokenizer
from cusa_jax.weights.openai import logit_scale, own_logit_scale
from cusa_jax.weights.torch_layout import (
    KeyTable,
    Tensors,
    from_torch,
    read_folder,
    to_torch,
    write_safetensors,
)

MODEL_TYPE = "clip"
_SENTENCE_TRANSFORMERS = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.CLIPModel"}
IGNORED = {
    "logit_scale": "an extra: CUSA's temperatures replace it",
    r"(text|vision)_model\.embeddings\.position_ids": "numbers from 0 on, which older files have",
}
# Files of openai/clip-vit-base-patch32 leave out what equals the library's defaults, which are B/32's.
_COMMON = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_VISION = _COMMON | {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "image_size": 224,
                     "patch_size": 32}  # fmt: skip
_TEXT = _COMMON | {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048, "vocab_size": 49408,
                   "max_position_embeddings": 77}  # fmt: skip
_SECTIONS = {"vision_config": _VISION, "text_config": _TEXT}
# The projection is the whole model's.
_HONOURED = {
    "": {*_SECTIONS, "vision_config_dict", "text_config_dict", "model_type", "projection_dim"},
    "vision_config": {*_VISION, "projection_dim"},
    "text_config": {*_TEXT, "projection_dim", "pad_token_id"},
}
# What other settings may be, by section; anything else is not a CLIP.
_ONLY: Mapping[str, Mapping[str, Any]] = {
    "": {"pruned_heads": {}},
    "vision_config": {"model_type": "clip_vision_model", "num_channels": 3, "attention_dropout": 0, "dropout": 0,
                      "pruned_heads": {}},
    "text_config": {"model_type": "clip_text_model", "attention_dropout": 0, "dropout": 0, "pruned_heads": {}},
}  # fmt: skip
# Position of the end-of-text token: its id, or 2, with which older files mean "the highest id", which it is.
_LEGACY_EOS = 2


def key_table(sizes: ClipConfig) -> KeyTable:
    """Our modules -> theirs. Projections are Linears without bias; queries, keys and values lie apart, or fused."""
    table: dict[str, str | Tensors] = {
        "image/patch_embedding": "vision_model.embeddings.patch_embedding",
        "image/class_embedding": "vision_model.embeddings.class_embedding",
        "image/position_embedding": "vision_model.embeddings.position_embedding.weight",
        # The library's own spelling.
        "image/ln_pre": "vision_model.pre_layrnorm",
        "image/ln_post": "vision_model.post_layernorm",
        "image/projection": Tensors(("visual_projection.weight",), axes="turned"),
        "text/token_embedding": "text_model.embeddings.token_embedding.weight",
        "text/position_embedding": "text_model.embeddings.position_embedding.weight",
        "text/ln_final": "text_model.final_layer_norm",
        "text/projection": Tensors(("text_projection.weight",), axes="turned"),
    }
    for ours, theirs, layers in (
        ("image", "vision_model", sizes.vision_layers),
        ("text", "text_model", sizes.text_layers),
    ):
        for n in range(layers):
            table |= block(f"{ours}/transformer/block_{n}", f"{theirs}.encoder.layers.{n}")
    return table


def block(ours: str, theirs: str) -> dict[str, str | Tensors]:
    """One block of a transformer: ours, in CLIP and SigLIP alike -> theirs."""
    attention = f"{theirs}.self_attn"
    return {
        f"{ours}/ln_1": f"{theirs}.layer_norm1",
        f"{ours}/attn/in_proj": Tensors(
            tuple(f"{attention}.{part}_proj" for part in "qkv"), whole=f"{attention}.qkv_proj"
        ),
        f"{ours}/attn/out_proj": f"{attention}.out_proj",
        f"{ours}/ln_2": f"{theirs}.layer_norm2",
        f"{ours}/fc": f"{theirs}.mlp.fc1",
        f"{ours}/proj": f"{theirs}.mlp.fc2",
    }


# --- the format -----------------------------------------------------------------------------------------------


def _recognises(source: Source) -> bool:
    return bool(source.config) and source.config.get("model_type", MODEL_TYPE) == MODEL_TYPE


def _read(source: Source) -> Weights:
    folder = source.path
    sizes = _sizes(source)
    check_tokenizer(folder, sizes)
    tensors = without_wrappers(read_folder(folder))
    shapes = template("clip", sizes, (), folder)["params"]
    params = from_torch(tensors, shapes, key_table(sizes), ignored=IGNORED, where=folder, model="a CLIP")
    return Weights("clip", sizes, {"params": params}, extras=logit_scale(tensors, folder))


def _write(folder: Path, weights: Weights) -> None:
    """The CLIP alone: weights, config, preprocessing, and CLIP's tokenizer where its vocabulary is CLIP's.

    Raises InputError for a ResNet, which the library does not have, and for heads.
    """
    refuse_heads(weights, folder)
    sizes = weights.sizes
    if sizes.resnet_blocks:
        raise InputError(
            f"{folder}: Hugging Face's CLIPModel has vision transformers only; write a .pt instead"
        )
    tensors = {"logit_scale": own_logit_scale(weights)} | to_torch(weights.towers["params"], key_table(sizes))
    with folder_written_whole(folder) as fresh:
        write_safetensors(fresh / "model.safetensors", tensors, {"format": "pt"})
        write_json(fresh / CONFIG, _config(sizes))
        write_json(fresh / metadata.PREPROCESSOR, _preprocessing(sizes))
        write_tokenizer(fresh, weights)
        write_card(fresh, weights, "transformers")
        # For sentence-transformers, whose module this is: the folder itself.
        write_json(fresh / "modules.json", [_SENTENCE_TRANSFORMERS])


FORMAT = Format("Hugging Face's CLIP folder", "clip", _recognises, _read, "", _write)


# --- what lies beside the tensors -----------------------------------------------------------------------------


def _sizes(source: Source) -> ClipConfig:
    raw, path = source.config, source.path / CONFIG
    with metadata.read_as("the configuration of a CLIP model", path):
        sections = {"": raw} | {name: _section(raw, name) for name in _SECTIONS}
        for name, section in sections.items():
            check_settings(name, section, _HONOURED[name], _ONLY[name], what="a CLIP", path=path)
        vision, text = sections["vision_config"], sections["text_config"]
        fields: dict[str, Any] = {
            "embed_dim": size(raw, "projection_dim", path, 512),
            "image_size": size(vision, "image_size", path),
            "patch_size": size(vision, "patch_size", path),
            "vision_width": size(vision, "hidden_size", path),
            "vision_layers": size(vision, "num_hidden_layers", path, at_most=MOST_LAYERS),
            "vision_heads": size(vision, "num_attention_heads", path),
            "vision_mlp": size(vision, "intermediate_size", path),
            "text_width": size(text, "hidden_size", path),
            "text_layers": size(text, "num_hidden_layers", path, at_most=MOST_LAYERS),
            "text_heads": size(text, "num_attention_heads", path),
            "text_mlp": size(text, "intermediate_size", path),
            "context_length": size(text, "max_position_embeddings", path),
            "vocab_size": size(text, "vocab_size", path),
            "activation": metadata.activation(str(vision["hidden_act"]), source.activation, path),
        }
        _check(path, vision, text)
    return make_sizes("clip", fields | _pixels(source.path, fields["image_size"]), path)


def _pixels(folder: Path, image_size: int) -> dict[str, tuple[float, ...]]:
    """What preprocessor_config.json says; a folder without one is taken to have CLIP's pixels."""
    said, path = metadata.read_preprocessor(folder)
    return metadata.statistics(said, metadata.PREPROCESSOR_CONFIG, image_size, path)


def _section(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of a tower, with the library's defaults; a `…_config_dict` of older files decides over them."""
    said = _SECTIONS[name] | dict(raw.get(name) or {})
    older = raw.get(f"{name}_dict")
    return said if older is None else said | _SECTIONS[name] | dict(older)


def _check(path: Path, vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    if vision["hidden_act"] != text["hidden_act"]:
        raise InputError(
            f"{path}: hidden_act is {vision['hidden_act']!r} and {text['hidden_act']!r}; both towers must have the "
            "same"
        )
    for name, part in (("vision_config", vision), ("text_config", text)):
        if part["layer_norm_eps"] != 1e-5:
            raise InputError(f"{path}: {name}.layer_norm_eps must be 1e-5, as in every CLIP")
    last = text["vocab_size"] - 1
    if text.get("eos_token_id") not in (None, _LEGACY_EOS, last):
        raise InputError(
            f"{path}: text_config.eos_token_id is {text['eos_token_id']!r}; a CLIP's feature is that of its last "
            f"token id ({last}, in older files written as {_LEGACY_EOS})"
        )


def _config(sizes: ClipConfig) -> dict[str, Any]:
    def tower(kind: str, width: int, layers: int, heads: int, mlp: int) -> dict[str, Any]:
        return {
            "model_type": f"clip_{kind}_model",
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "hidden_act": sizes.activation,
            "layer_norm_eps": 1e-5,
            "projection_dim": sizes.embed_dim,
        }

    vision = tower("vision", sizes.vision_width, sizes.vision_layers, sizes.vision_heads, sizes.vision_mlp)
    text = tower("text", sizes.text_width, sizes.text_layers, sizes.text_heads, sizes.text_mlp)
    return {
        "architectures": ["CLIPModel"],
        "model_type": MODEL_TYPE,
        "projection_dim": sizes.embed_dim,
        "torch_dtype": "float32",
        "vision_config": vision | {"image_size": sizes.image_size, "patch_size": sizes.patch_size},
        "text_config": text
        | {
            "vocab_size": sizes.vocab_size,
            "max_position_embeddings": sizes.context_length,
            "bos_token_id": sizes.vocab_size - 2,
            "eos_token_id": sizes.vocab_size - 1,
        },
    }


def _preprocessing(sizes: ClipConfig) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": sizes.image_size},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": sizes.image_size, "width": sizes.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(sizes.mean),
        "image_std": list(sizes.std),
        "do_convert_rgb": True,
    }

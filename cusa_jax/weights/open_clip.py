"""open_clip's folders, as it pushes them to the Hub: open_clip_config.json, and tensors under OpenAI's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cusa_jax.errors import InputError, one_line
from cusa_jax.files import folder_written_whole
from cusa_jax.jsonfile import MOST_LAYERS, read_json, size, write_json
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.families import make_sizes
from cusa_jax.weights import metadata
from cusa_jax.weights.card import write_card
from cusa_jax.weights.folding import refuse_heads
from cusa_jax.weights.format import Format, Source, without_wrappers
from cusa_jax.weights.hub import Weights
from cusa_jax.weights.huggingface_tokenizer import write_tokenizer
from cusa_jax.weights.openai import from_tensors, own_logit_scale, to_tensors, unprefixed
from cusa_jax.weights.torch_layout import read_folder, write_safetensors

CONFIG = "open_clip_config.json"
_HONOURED = {
    "model_cfg": ("embed_dim", "vision_cfg", "text_cfg"),
    "vision_cfg": ("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"),
    "text_cfg": ("width", "layers", "heads", "context_length", "vocab_size", "mlp_ratio"),
}
# open_clip's own defaults, of keys that mean something when they are false, too; other values are no CLIP of OpenAI's.
_ONLY: Mapping[str, Mapping[str, tuple]] = {
    "model_cfg": {"custom_text": (True, False), "quick_gelu": (True, False)},
    "vision_cfg": {"pool_type": ("tok",), "pos_embed_type": ("learnable",), "block_type": ("default",)},
    "text_cfg": {"pool_type": ("argmax",), "proj_type": ("linear",), "block_type": ("default",)},
}
# Parts that OpenAI's CLIPs have not: null, false or 0 asks for none.
_BLOCKS = {"ls_init_value", "act_kwargs", "norm_kwargs", "qk_norm", "scaled_cosine_attn", "scale_heads",
           "scale_attn_inner", "scale_attn", "scale_fc", "final_ln_after_pool", "block_type"}  # fmt: skip
_ABSENT = {
    "model_cfg": {"init_logit_bias", "nonscalar_logit_scale", "multimodal_cfg", "custom_text", "quick_gelu"},
    "vision_cfg": {*_BLOCKS, "attentional_pool", "no_ln_pre", "timm_model_name"},
    "text_cfg": {*_BLOCKS, "embed_cls", "no_causal_mask", "proj_bias", "hf_model_name", "hf_tokenizer_name",
                 "tokenizer_mode", "tokenizer_kwargs"},
}  # fmt: skip
_PARTS = "of a part that is not there"
_TRAINING = "of open_clip's own training"
_IGNORED = {
    "patch_dropout": _TRAINING, "timm_drop": _TRAINING, "timm_drop_path": _TRAINING,
    "init_logit_scale": "where a training begins, which is over",
    "output_tokens": "what is returned beside the embedding", "output_dict": "how it is returned",
    "attn_pooler_queries": _PARTS, "attn_pooler_heads": _PARTS, "timm_model_pretrained": _PARTS, "timm_pool": _PARTS,
    "timm_proj": _PARTS, "timm_proj_bias": _PARTS, "hf_model_pretrained": _PARTS, "hf_proj_type": _PARTS,
    "hf_pooler_type": _PARTS, "pad_id": _PARTS, "bos_id": _PARTS, "eos_id": _PARTS,
}  # fmt: skip


def _recognises(source: Source) -> bool:
    """Some folders of the Hub hold both kinds of configuration, and the weights under Hugging Face's names alone."""
    folder = source.path
    if not (folder / CONFIG).is_file():
        return False
    return any(folder.glob("open_clip_*.[sb]*")) or not (folder / "config.json").is_file()


def _read(source: Source) -> Weights:
    tensors = read_folder(source.path, "open_clip_model", "open_clip_pytorch_model")
    return from_tensors(_sizes(source), unprefixed(without_wrappers(tensors)), source.path)


def _sizes(source: Source) -> ClipConfig:
    path = source.path / CONFIG
    raw = read_json(path, "get it again")
    with metadata.read_as("the configuration of a CLIP with two transformers", path):
        model = raw["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        if unknown := raw.keys() - {"model_cfg", "preprocess_cfg"}:
            raise InputError(
                f"{path}: {one_line(min(unknown))[:80]} is not known here; remove it if it changes nothing"
            )
        for name, section in (("model_cfg", model), ("vision_cfg", vision), ("text_cfg", text)):
            _check(name, section, path)
        said = "quick_gelu" if model.get("quick_gelu") else "gelu"
        fields: dict[str, Any] = {
            "embed_dim": size(model, "embed_dim", path),
            "image_size": size(vision, "image_size", path),
            "patch_size": size(vision, "patch_size", path),
            "vision_width": size(vision, "width", path),
            "vision_layers": size(vision, "layers", path, at_most=MOST_LAYERS),
            "vision_heads": size(vision, "width", path) // size(vision, "head_width", path, 64),
            "vision_mlp": _mlp(vision, path),
            "text_mlp": _mlp(text, path),
            "text_width": size(text, "width", path),
            "text_layers": size(text, "layers", path, at_most=MOST_LAYERS),
            "text_heads": size(text, "heads", path),
            "context_length": size(text, "context_length", path, 77),
            "vocab_size": size(text, "vocab_size", path, 49408),
            "activation": metadata.activation(said, source.activation, path),
        }
        pixels = metadata.statistics(
            raw.get("preprocess_cfg") or {}, metadata.OPEN_CLIP_PREPROCESS, fields["image_size"], path
        )
    return make_sizes("clip", fields | pixels, path)


def _mlp(section: dict[str, Any], path: Path) -> int:
    """Width of a tower's MLPs, as open_clip rounds it."""
    ratio = section.get("mlp_ratio", 4.0)
    if type(ratio) not in (int, float) or not 0 < ratio <= 64:
        raise InputError(f"{path}: mlp_ratio={one_line(repr(ratio))[:80]} is no ratio of widths")
    return int(size(section, "width", path) * ratio)


def _check(name: str, section: Mapping[str, Any], path: Path) -> None:
    only, absent = _ONLY[name], _ABSENT[name]
    for key, value in section.items():
        if key in _HONOURED[name] or key in _IGNORED or (key in absent and not value):
            continue
        if key not in only or value not in only[key]:
            label = one_line(f"{name}.{key}={value!r}")
            raise InputError(f"{path}: {label[:160]}: OpenAI's CLIP, which this is not, is supported")


def _write(folder: Path, weights: Weights) -> None:
    """For `open_clip.create_model_and_transforms('local-dir:FOLDER')`. Raises InputError for heads, and for ResNets."""
    sizes = weights.sizes
    refuse_heads(weights, folder)
    if sizes.resnet_blocks:
        raise InputError(
            f"{folder}: as an open_clip folder vision transformers are written only; write a .pt instead"
        )
    tensors = {"logit_scale": own_logit_scale(weights)} | to_tensors(weights, weights.towers)
    with folder_written_whole(folder) as fresh:
        write_safetensors(fresh / "open_clip_model.safetensors", tensors, {"format": "pt"})
        write_json(fresh / CONFIG, _config(sizes))
        write_tokenizer(fresh, weights)
        write_card(fresh, weights, "open_clip")


def _config(sizes: ClipConfig) -> dict[str, Any]:
    vision = {"image_size": sizes.image_size, "patch_size": sizes.patch_size} | _tower(sizes, "vision")
    vision["head_width"] = sizes.vision_width // sizes.vision_heads
    text = {"context_length": sizes.context_length, "vocab_size": sizes.vocab_size, "heads": sizes.text_heads}
    return {
        "model_cfg": {
            "embed_dim": sizes.embed_dim,
            "quick_gelu": sizes.activation == "quick_gelu",
            "vision_cfg": vision,
            "text_cfg": text | _tower(sizes, "text"),
        },
        "preprocess_cfg": {
            "size": [sizes.image_size, sizes.image_size],
            "mode": "RGB",
            "mean": list(sizes.mean),
            "std": list(sizes.std),
            "interpolation": sizes.resampling,
            "resize_mode": {"crop": "shortest", "squash": "squash"}[sizes.resize],
        },
    }


def _tower(sizes: ClipConfig, kind: str) -> dict[str, Any]:
    width, mlp = getattr(sizes, f"{kind}_width"), getattr(sizes, f"{kind}_mlp")
    # A hair above the ratio, so that rounding down gives the width back.
    ratio = mlp / width if mlp % width == 0 else (mlp + 0.5) / width
    return {"width": width, "layers": getattr(sizes, f"{kind}_layers"), "mlp_ratio": ratio}


FORMAT = Format("open_clip's folder", "clip", _recognises, _read, write=_write)

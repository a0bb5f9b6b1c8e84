"""What lies beside the tensors of Hugging Face's `SiglipModel`: sizes, pixels and the padding token, read and written.

Every setting is honoured, ignored for a stated reason, or refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cusa_jax.errors import InputError, one_line
from cusa_jax.jsonfile import MOST_LAYERS, read_json, size
from cusa_jax.models.families import make_sizes
from cusa_jax.models.siglip_sizes import SiglipSizes
from cusa_jax.weights import metadata
from cusa_jax.weights.config_keys import check_settings
from cusa_jax.weights.format import CONFIG, Source

MODEL_TYPE = "siglip"
TOKENIZER = "tokenizer_config.json"
# Their names of our activations; of two, the first is written.
_ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu",
}  # fmt: skip
# The library's defaults, which are those of siglip-base-patch16-224; files leave out what equals them.
_COMMON = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
           "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}  # fmt: skip
_VISION = _COMMON | {"image_size": 224, "patch_size": 16}
_TEXT = _COMMON | {
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "projection_size": None,
    "pad_token_id": None,
}
_SECTIONS = ("vision_config", "text_config")
_HONOURED = {"": {*_SECTIONS, "model_type"}, "vision_config": _VISION, "text_config": _TEXT}
# What other settings may be, by section; anything else is not a SigLIP of fixed resolution.
_ONLY: Mapping[str, Mapping[str, Any]] = {
    "": {"pruned_heads": {}},
    "vision_config": {"model_type": "siglip_vision_model", "num_channels": 3, "attention_dropout": 0,
                      "vision_use_head": True, "pruned_heads": {}},
    "text_config": {"model_type": "siglip_text_model", "attention_dropout": 0, "pruned_heads": {}},
}  # fmt: skip
_GEMMA_VOCABULARY, _GEMMA_PAD, _SENTENCEPIECE_PAD = 256_000, 0, 1


def read_sizes(source: Source) -> SiglipSizes:
    """The sizes of a folder. Raises InputError naming the key for what is not a SigLIP of fixed resolution."""
    raw, path = source.config, source.path / CONFIG
    _check_type(raw.get("model_type"), path)
    with metadata.read_as("the configuration of a SigLIP model", path):
        sections = {"": raw} | {name: raw.get(name) or {} for name in _SECTIONS}
        for name, section in sections.items():
            check_settings(
                name, section, _HONOURED[name], _ONLY[name], what="a SigLIP of fixed resolution", path=path
            )
        vision, text = _VISION | dict(sections["vision_config"]), _TEXT | dict(sections["text_config"])
        fields = {
            **_tower("vision", vision, source),
            **_tower("text", text, source),
            "image_size": size(vision, "image_size", path),
            "patch_size": size(vision, "patch_size", path),
            "vocab_size": size(text, "vocab_size", path),
            "context_length": size(text, "max_position_embeddings", path),
        }
        projected = fields["text_width"] if text["projection_size"] is None else text["projection_size"]
        if projected != fields["vision_width"]:
            raise InputError(
                f"{path}: text_config.projection_size is {one_line(str(projected))[:40]}, but images are embedded in "
                f"vision_config.hidden_size, {fields['vision_width']}: they cannot be compared"
            )
        fields["pad_id"] = _pad_id(source.path, fields["vocab_size"], text["pad_token_id"])
    return make_sizes("siglip", fields | _pixels(source.path, fields["image_size"]), path)


def _check_type(model_type: Any, path: Path) -> None:
    if model_type == "siglip2":
        raise InputError(
            f"{path}: model_type siglip2 is NaFlex, whose pictures keep their shape, which is not supported; take a "
            "SigLIP 2 of fixed resolution, such as google/siglip2-base-patch16-224, whose model_type is siglip"
        )
    if model_type != MODEL_TYPE:
        said = one_line(repr(model_type))[:80]
        raise InputError(f"{path}: model_type {said} is not both towers of a SigLIP, which is '{MODEL_TYPE}'")


def _tower(kind: str, section: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """The fields of one tower."""
    path = source.path / CONFIG
    said = str(section["hidden_act"])
    if said not in _ACTIVATIONS:
        raise InputError(
            f"{path}: {kind}_config.hidden_act is {one_line(said)[:80]!r}, none of {', '.join(_ACTIVATIONS)}"
        )
    return {
        f"{kind}_width": size(section, "hidden_size", path),
        f"{kind}_layers": size(section, "num_hidden_layers", path, at_most=MOST_LAYERS),
        f"{kind}_heads": size(section, "num_attention_heads", path),
        f"{kind}_mlp": size(section, "intermediate_size", path),
        f"{kind}_activation": metadata.activation(_ACTIVATIONS[said], source.activation, path),
        f"{kind}_epsilon": float(section["layer_norm_eps"]),
    }


def _pixels(folder: Path, image_size: int) -> dict[str, Any]:
    """What preprocessor_config.json says; a folder without one is taken to have SigLIP's pixels."""
    said, path = metadata.read_preprocessor(folder)
    statistics = metadata.statistics(said, metadata.SIGLIP_PREPROCESSOR_CONFIG, image_size, path)
    resample = said.get("resample")
    return statistics | ({} if resample is None else {"resampling": metadata.RESAMPLING[int(resample)]})


def _pad_id(folder: Path, vocab_size: int, said: int | None) -> int:
    """The tokenizer's, where the folder has one: in SigLIP 2, config.json still says that of SigLIP's.

    Without, Gemma's for its vocabulary, or else what config.json says, or SigLIP's.
    """
    path = folder / TOKENIZER
    settings = read_json(path, "get it again") if path.is_file() else {}
    with metadata.read_as("the configuration of a tokenizer", path):
        pad = settings.get("pad_token")
        pad = pad["content"] if isinstance(pad, dict) else pad
        for number, token in settings.get("added_tokens_decoder", {}).items():
            if pad is not None and token["content"] == pad:
                return int(number)
    if vocab_size == _GEMMA_VOCABULARY:
        return _GEMMA_PAD
    return _SENTENCEPIECE_PAD if said is None else said


# --- written --------------------------------------------------------------------------------------------------


def config(sizes: SiglipSizes) -> dict[str, Any]:
    """config.json of a SiglipModel."""
    vision = {"image_size": sizes.image_size, "patch_size": sizes.patch_size, "num_channels": 3}
    text = {
        "vocab_size": sizes.vocab_size,
        "max_position_embeddings": sizes.context_length,
        "projection_size": sizes.embed_dim,
        "pad_token_id": sizes.pad_id,
    }
    return {
        "architectures": ["SiglipModel"],
        "model_type": MODEL_TYPE,
        "torch_dtype": "float32",
        "vision_config": _section("vision", sizes) | vision,
        "text_config": _section("text", sizes) | text,
    }


def _section(kind: str, sizes: SiglipSizes) -> dict[str, Any]:
    activation = getattr(sizes, f"{kind}_activation")
    return {
        "model_type": f"siglip_{kind}_model",
        "hidden_size": getattr(sizes, f"{kind}_width"),
        "intermediate_size": getattr(sizes, f"{kind}_mlp"),
        "num_hidden_layers": getattr(sizes, f"{kind}_layers"),
        "num_attention_heads": getattr(sizes, f"{kind}_heads"),
        "hidden_act": next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == activation),
        "layer_norm_eps": getattr(sizes, f"{kind}_epsilon"),
        "attention_dropout": 0.0,
    }


def preprocessing(sizes: SiglipSizes) -> dict[str, Any]:
    """preprocessor_config.json of a SiglipImageProcessor."""
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": sizes.image_size, "width": sizes.image_size},
        "resample": metadata.RESAMPLING.index(sizes.resampling),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(sizes.mean),
        "image_std": list(sizes.std),
    }

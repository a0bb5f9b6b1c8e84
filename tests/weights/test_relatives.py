"""Configurations as CLIP's relatives are published, at full size: LAION, MetaCLIP, DFN; Hugging Face's, open_clip's.

Their weights are not at hand; the same code reads them at small sizes (test_huggingface.py, test_formats.py).
"""

import dataclasses
import json

import pytest

from cusa_jax.errors import InputError
from cusa_jax.models.clip_sizes import PRESETS
from cusa_jax.weights import huggingface, open_clip
from cusa_jax.weights.format import Source

TOWERS = {
    "h": ({"layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
          {"width": 1024, "heads": 16, "layers": 24}, 1024),
    "g": ({"layers": 40, "width": 1408, "head_width": 88, "mlp_ratio": 4.3637, "patch_size": 14},
          {"width": 1024, "heads": 16, "layers": 24}, 1024),
    "bigg": ({"layers": 48, "width": 1664, "head_width": 104, "mlp_ratio": 4.9231, "patch_size": 14},
             {"width": 1280, "heads": 20, "layers": 32}, 1280),
    "b_16": ({"layers": 12, "width": 768, "patch_size": 16}, {"width": 512, "heads": 8, "layers": 12}, 512),
    "b_32": ({"layers": 12, "width": 768, "patch_size": 32}, {"width": 512, "heads": 8, "layers": 12}, 512),
}  # fmt: skip
OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3}


def preset(name, **changed):
    return dataclasses.replace(PRESETS[name], **changed)


def write(folder, **files):
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return Source(folder)


@pytest.mark.parametrize(
    ("towers", "pixels", "quick", "preprocess", "expected"),
    [
        # laion/CLIP-ViT-H-14-laion2B-s32B-b79K, -g-14-, -bigG-14-, -B-32-
        ("h", 224, False, OPENAI, preset("vit_h_14")),
        ("g", 224, False, OPENAI, preset("vit_g_14")),
        ("bigg", 224, False, OPENAI, preset("vit_bigg_14")),
        ("b_32", 224, False, OPENAI, preset("vit_b_32", activation="gelu")),
        # apple/DFN5B-CLIP-ViT-H-14-378, DFN2B-CLIP-ViT-B-16
        ("h", 378, True, OPENAI, preset("vit_h_14", image_size=378, activation="quick_gelu")),
        ("b_16", 224, True, OPENAI, preset("vit_b_16")),
        # With LAION's Inception statistics, as CLIP-ViT-L-14-laion2B-s32B-b82K
        ("b_16", 224, False, HALVES, preset("vit_b_16", activation="gelu", mean=(0.5,) * 3, std=(0.5,) * 3)),
    ],
)  # fmt: skip
def test_open_clips_folders(towers, pixels, quick, preprocess, expected, tmp_path):
    vision, text, embed = TOWERS[towers]
    model = {
        "embed_dim": embed,
        "vision_cfg": vision | {"image_size": pixels},
        "text_cfg": text | {"context_length": 77, "vocab_size": 49408},
    }
    model |= {"quick_gelu": True} if quick else {}
    source = write(tmp_path, open_clip_config={"model_cfg": model, "preprocess_cfg": preprocess})
    assert open_clip._sizes(source) == expected


@pytest.mark.parametrize(
    ("name", "vision", "text", "embed", "expected"),
    [
        # laion/CLIP-ViT-H-14-laion2B-s32B-b79K
        ("gelu", {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16,
                  "num_hidden_layers": 32, "patch_size": 14},
         {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24},
         1024, preset("vit_h_14")),
        # laion/CLIP-ViT-bigG-14-laion2B-39B-b160k
        ("gelu", {"hidden_size": 1664, "intermediate_size": 8192, "num_attention_heads": 16,
                  "num_hidden_layers": 48, "patch_size": 14},
         {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32},
         1280, preset("vit_bigg_14")),
        # facebook/metaclip-b16-400m
        ("quick_gelu", {"patch_size": 16}, {}, 512, preset("vit_b_16")),
    ],
)  # fmt: skip
def test_hugging_faces_folders(name, vision, text, embed, expected, tmp_path):
    config = {
        "model_type": "clip",
        "projection_dim": embed,
        "vision_config": vision | {"hidden_act": name, "projection_dim": embed},
        "text_config": text | {"hidden_act": name, "projection_dim": embed},
    }
    assert huggingface._sizes(write(tmp_path, config=config)) == expected


def test_a_text_tower_of_transformers_in_an_open_clip_folder_is_refused_by_name(tmp_path):
    """As of xlm-roberta-base-ViT-B-32."""
    vision, _, embed = TOWERS["b_32"]
    text = {
        "hf_model_name": "xlm-roberta-base",
        "hf_tokenizer_name": "xlm-roberta-base",
        "pooler_type": "mean_pooler",
    }
    model = {"embed_dim": embed, "vision_cfg": vision | {"image_size": 224}, "text_cfg": text}
    with pytest.raises(InputError, match=r"open_clip_config\.json: .*text_cfg\.(hf_model_name|pooler_type)="):
        open_clip._sizes(write(tmp_path, open_clip_config={"model_cfg": model}))

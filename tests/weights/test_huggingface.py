"""CLIP folders of Hugging Face against transformers' own Flax CLIP."""

import json

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file
from transformers import CLIPConfig, FlaxCLIPModel

from cusa_jax.errors import InputError
from cusa_jax.models.dual_encoder import DualEncoder, init_variables
from cusa_jax.weights.huggingface import read_clip
from cusa_jax.weights.openai import clip_variables

TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256,
        "vocab_size": 99, "max_position_embeddings": 12, "eos_token_id": 98, "bos_token_id": 97}  # fmt: skip
VISION = {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 512,
          "image_size": 16, "patch_size": 8}  # fmt: skip
TORCH_AXES = {"kernel": {2: (1, 0), 4: (3, 2, 0, 1)}}
TORCH_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


@pytest.fixture(scope="module")
def theirs() -> FlaxCLIPModel:
    config = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=32, hidden_act="quick_gelu")
    return FlaxCLIPModel(config, seed=3)


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    """The folder as the library's PyTorch side writes it: torch names and layouts."""
    path = tmp_path_factory.mktemp("clip")
    tensors = {}
    for key, leaf in traverse_util.flatten_dict(theirs.params).items():
        name = ".".join([*key[:-1], TORCH_NAMES.get(key[-1], key[-1])])
        axes = TORCH_AXES.get(key[-1], {}).get(np.ndim(leaf), range(np.ndim(leaf)))
        tensors[name] = np.ascontiguousarray(np.asarray(leaf).transpose(*axes))
    tensors["text_model.embeddings.position_ids"] = np.arange(12)[None]  # older files have it
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(
        json.dumps({"model_type": "clip", "projection_dim": 32, "text_config": TEXT, "vision_config": VISION})
    )
    return path


def read(folder):
    config, tensors = read_clip(folder)
    model = DualEncoder(config, cross_heads=False, uni_heads=False)
    template = jax.eval_shape(lambda key: init_variables(model, key), jax.random.key(0))
    return model, clip_variables(tensors, config, template, folder)["params"]


def test_features_equal_those_of_transformers(folder, theirs):
    model, params = read(folder)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(3, 16, 16, 3)).astype(np.float32)
    tokens = np.array([[97, 5, 6, 98, *[0] * 8], [97, *range(1, 11), 98]], np.int32)
    ours = model.apply({"params": params}, pixels, tokens[[0, 1, 1]])
    np.testing.assert_allclose(
        ours.cross_image, theirs.get_image_features(pixels.transpose(0, 3, 1, 2)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(ours.cross_text[:2], theirs.get_text_features(tokens), rtol=1e-4, atol=1e-5)


def damaged(folder, tmp_path, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    return tmp_path


def test_every_key_that_does_not_fit_is_named_at_once(folder, tmp_path):
    def change(tensors):
        del tensors["visual_projection.weight"]
        tensors["text_model.extra"] = np.zeros(3, np.float32)
        tensors["text_projection.weight"] = np.zeros((32, 3), np.float32)

    with pytest.raises(InputError, match=r"visual.proj.*text_model.extra.*text_projection"):
        read(damaged(folder, tmp_path, change))


def test_towers_with_different_activations_are_refused(folder, tmp_path):
    raw = json.loads((folder / "config.json").read_text())
    raw["text_config"]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="hidden_act"):
        read_clip(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"vision_config": {}}', '{"vision_config": 3, "text_config": 4}']
)
def test_a_config_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        read_clip(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        read_clip(tmp_path)

"""CLIP folders of Hugging Face against transformers' own Flax CLIP."""

import json
from pathlib import Path

import golden
import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file
from transformers import CLIPConfig, CLIPTokenizer, FlaxCLIPModel

from cusa_jax.data.tokenize import ClipTokenizer
from cusa_jax.errors import InputError
from cusa_jax.models import clip
from cusa_jax.models.clip import PRESETS
from cusa_jax.models.student import Options
from cusa_jax.weights.formats import load_model, read_weights, write_weights
from cusa_jax.weights.hub import Weights

TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 192,
        "vocab_size": 99, "max_position_embeddings": 12, "eos_token_id": 98, "bos_token_id": 97}  # fmt: skip
VISION = {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 320,
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


def test_features_equal_those_of_transformers(folder, theirs):
    student, variables = load_model(folder)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(3, 16, 16, 3)).astype(np.float32)
    tokens = np.array([[97, 5, 6, 98, *[0] * 8], [97, *range(1, 11), 98]], np.int32)
    image, _ = student.embed(variables, "image", pixels)
    text, _ = student.embed(variables, "text", tokens)
    np.testing.assert_allclose(
        image, theirs.get_image_features(pixels.transpose(0, 3, 1, 2)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(text, theirs.get_text_features(tokens), rtol=1e-4, atol=1e-5)


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

    with pytest.raises(InputError, match=r"visual_projection.*text_model.extra.*text_projection"):
        read_weights(damaged(folder, tmp_path, change))


def test_towers_with_different_activations_are_refused(folder, tmp_path):
    raw = json.loads((folder / "config.json").read_text())
    raw["text_config"]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="hidden_act"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"vision_config": {}}', '{"vision_config": 3, "text_config": 4}']
)
def test_a_config_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json|model\.safetensors: no such file"):
        read_weights(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json in it"):
        read_weights(tmp_path)


def described(folder, tmp_path, **settings) -> Path:
    """A copy of the folder with a preprocessor_config.json, as openai/clip-vit-base-patch32's."""
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    said = {"crop_size": 16, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 16,
            "feature_extractor_type": "CLIPFeatureExtractor", **settings}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    return tmp_path


def test_pixels_are_those_that_the_folder_says(folder, tmp_path):
    own = read_weights(
        described(folder, tmp_path, image_mean=[0.5, 0.25, 0.125], image_std=[0.5, 0.5, 0.25])
    ).sizes
    assert (own.mean, own.std) == ((0.5, 0.25, 0.125), (0.5, 0.5, 0.25))
    newer = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "do_rescale": True,
             "rescale_factor": 0.00392156862745098, "pad_size": None, "do_convert_rgb": True}  # fmt: skip
    clips = read_weights(described(folder, tmp_path, **newer)).sizes
    assert clips == read_weights(folder).sizes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", {"height": 16, "width": 16}),
        ("size", 17),
        ("crop_size", {"height": 16, "width": 20}),
        ("resample", 2),
        ("do_center_crop", False),
        ("do_normalize", False),
        ("rescale_factor", 1.0),
        ("crop_pct", 0.9),
    ],
)
def test_pixels_made_in_another_way_are_refused_by_name(folder, tmp_path, key, value):
    with pytest.raises(InputError, match=rf"preprocessor_config\.json: {key}="):
        read_weights(described(folder, tmp_path, **{key: value}))


def test_sizes_that_no_model_has_are_refused_by_name(folder, tmp_path):
    raw = json.loads((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    for tower, key, value in (
        ("text_config", "num_hidden_layers", -1e308),
        ("vision_config", "image_size", 2**31),
        ("vision_config", "num_hidden_layers", 2**63),
        ("text_config", "vocab_size", "many"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(raw | {tower: raw[tower] | {key: value}}))
        with pytest.raises(InputError, match=rf"config\.json: .*{key}"):
            read_weights(tmp_path)


def test_the_library_opens_the_tokenizer_that_is_written(tmp_path):
    """Its ids are those of our own, which are the reference's."""
    sizes = PRESETS["toy"]
    student = clip.student(sizes, Options(heads=()))
    variables = jax.device_get(golden.jit(student.init)(jax.random.key(0)))
    write_weights(tmp_path / "toy", Weights("clip", sizes, variables))
    theirs = CLIPTokenizer.from_pretrained(tmp_path / "toy")
    ours = ClipTokenizer()
    for text in ("two dogs on grass", "a photo of a naïve café, it's 42!", ""):
        ids = theirs(text)["input_ids"]
        assert ids == [ours.sot, *ours.encode(text), ours.eot]
    assert theirs.model_max_length == 77

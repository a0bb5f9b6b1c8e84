"""ImageNet's ResNets against numbers recorded from transformers' PyTorch ResNetModel, float64 (goldens/resnet.json)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from cusa_jax.errors import InputError
from cusa_jax.teachers import checkpoints
from cusa_jax.teachers.live import load_image_teacher, load_patches
from cusa_jax.teachers.resnet import ResNet, ResNetConfig, key_table
from cusa_jax.weights import torch_layout

RECORDED = json.loads((Path(__file__).parents[1] / "goldens" / "resnet.json").read_text())
SIZES = {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 2]}
PREPROCESSING = {"size": 32, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


def tensors_of(config):
    """The file's tensors as they were when the numbers were recorded: drawn in the order of their names."""
    template = jax.eval_shape(lambda: ResNet(config).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))[
        "params"
    ]
    shapes = {
        f"resnet.{key}": tensor.shape
        for key, tensor in torch_layout.to_torch(
            jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), template), key_table(config)
        ).items()
    }
    rng, made = np.random.default_rng(0), {}
    for key in sorted(shapes):
        values = rng.normal(size=shapes[key])
        if key.endswith(("running_var", "normalization.weight")):
            made[key] = 1 + 0.1 * np.abs(values)
        else:
            made[key] = (0.3 if key.endswith("convolution.weight") else 0.1) * values
    return {key: value.astype(np.float32) for key, value in made.items()}


def write(folder, **settings):
    """A model folder as Hugging Face has it. Returns its config, and config.json as it is read."""
    raw = SIZES | settings
    config = ResNetConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})
    raw = {"model_type": "resnet", "num_channels": 3} | raw
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    ignored = {"classifier.1.weight": np.zeros((3, 16), np.float32)}
    save_file(tensors_of(config) | ignored, folder / "model.safetensors")
    return config, raw


@pytest.mark.parametrize("case", RECORDED)
def test_feature_maps_are_those_of_transformers(tmp_path, case):
    recorded = RECORDED[case]
    _, raw = write(tmp_path, **recorded["config"])
    config, params = checkpoints.load(tmp_path, raw)
    pixels = np.random.default_rng(1).normal(size=(2, 3, 40, 24)).transpose(0, 2, 3, 1)
    found = jax.jit(ResNet(config).apply)({"params": params}, pixels.astype(np.float32))
    assert found.transpose(0, 3, 1, 2).shape == tuple(recorded["shape"])
    np.testing.assert_allclose(
        found.transpose(0, 3, 1, 2)[:, ::5].ravel(), recorded["map"], rtol=2e-4, atol=2e-5
    )


def test_a_teacher_is_the_mean_of_its_places(tmp_path):
    config, _ = write(tmp_path)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    (whole, params), (places, _) = load_image_teacher(str(tmp_path)), load_patches(str(tmp_path))
    assert whole.image.size == 32
    normalised = (pixels / 255 - PREPROCESSING["image_mean"]) / PREPROCESSING["image_std"]
    expected = ResNet(config).apply({"params": params}, normalised.astype(np.float32)).reshape(2, -1, 16)
    np.testing.assert_allclose(places.apply(params, pixels), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole.apply(params, pixels), expected.mean(1), rtol=1e-4, atol=1e-5)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    config, params = checkpoints.load(tmp_path, write(tmp_path)[1])
    checkpoints.save(tmp_path / "again", config, params)
    again = checkpoints.load(tmp_path / "again", json.loads((tmp_path / "again" / "config.json").read_text()))
    assert again[0] == config
    for path, leaf in traverse_util.flatten_dict(again[1]).items():
        np.testing.assert_array_equal(leaf, traverse_util.flatten_dict(params)[path])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"depths": [1]}, "depths has 1 stages and hidden_sizes 2"),
        ({"depths": [1, 0]}, r"depths = \[1, 0\] is not whole numbers from 1"),
        ({"depths": 3}, "depths = 3 is not whole numbers from 1"),
        ({"layer_type": "wide"}, "layer_type 'wide' is none of 'basic', 'bottleneck'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not 'relu'"),
        ({"depths": [1, 10**9]}, "layers cannot be made of the"),
        ({"hidden_sizes": [8, 24]}, "unfit"),
    ],
)
def test_a_model_that_is_none_is_refused(tmp_path, settings, complaint):
    write(tmp_path)
    raw = {"model_type": "resnet"} | SIZES | settings
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=complaint):
        load_image_teacher(str(tmp_path))

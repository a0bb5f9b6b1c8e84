"""MPNet against transformers' PyTorch MPNetModel: random tiny weights, recorded in goldens/mpnet_tiny.npz."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cusa_jax.errors import InputError
from cusa_jax.teachers import checkpoints, mpnet

GOLDENS = Path(__file__).parents[1] / "goldens" / "mpnet_tiny.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS) as file:
        return dict(file)


def write_folder(folder, golden, *, prefix="", drop=(), extra=None, reshape=None, **config):
    """The golden model as a Hugging Face folder, with the given harm done to it."""
    weights = {
        prefix + name.removeprefix("weights/"): tensor
        for name, tensor in golden.items()
        if name.startswith("weights/") and name.removeprefix("weights/") not in drop
    }
    if reshape:
        weights[reshape] = weights[reshape][:-1]
    save_file(weights | (extra or {}), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(json.loads(str(golden["config"])) | config))
    return folder


def load(folder):
    return checkpoints.load(folder, json.loads((folder / "config.json").read_text()))


@pytest.mark.parametrize("prefix", ["", "mpnet."])
def test_states_equal_transformers(golden, tmp_path, prefix):
    ignored = {"embeddings.position_ids": np.arange(3), "lm_head.bias": np.zeros(2, np.float32)}
    folder = write_folder(tmp_path, golden, prefix=prefix, extra={prefix + k: v for k, v in ignored.items()})
    config, params = load(folder)
    model = mpnet.MPNet(config)
    with jax.default_matmul_precision("highest"):
        states = model.apply({"params": params}, golden["input_ids"], golden["attention_mask"])
        long = golden["long_input_ids"]  # past the distance at which all positions share a bucket
        long_states = model.apply({"params": params}, long, np.ones_like(long))[:, ::10]
    np.testing.assert_allclose(states, golden["states"], atol=5e-6)
    np.testing.assert_allclose(long_states, golden["long_states"], atol=5e-6)


def test_bucket_of_every_offset(golden):
    buckets = mpnet.relative_position_buckets(141, 32)
    by_offset = {key - query: buckets[query, key] for query in (0, 140) for key in range(141)}
    assert [by_offset[offset] for offset in golden["bucket_offsets"]] == list(golden["buckets"])


def test_bfloat16_computes_close_and_answers_float32(golden, tmp_path):
    config, params = load(write_folder(tmp_path, golden))
    states = mpnet.MPNet(config, jnp.bfloat16).apply(
        {"params": params}, golden["input_ids"], golden["attention_mask"]
    )
    assert states.dtype == jnp.float32
    error = np.abs(np.asarray(states) - golden["states"])[golden["attention_mask"] == 1]
    assert 1e-4 < error.max() < 0.1  # computed in bfloat16, and no worse than that


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_folder_loads_again(golden, tmp_path, dtype):
    config, params = load(write_folder(tmp_path, golden))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    checkpoints.save(tmp_path / "saved", config, params)
    again_config, again = load(tmp_path / "saved")
    assert again_config == config
    assert {tensor.dtype for tensor in load_file(tmp_path / "saved" / "model.safetensors").values()} == {
        np.dtype(dtype)
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(again)} == {np.dtype(np.float32)}
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_all_key_faults_in_one_line(golden, tmp_path):
    word, dense = "embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.bias"
    surplus = {"surplus": np.zeros(2, np.float32)}
    folder = write_folder(tmp_path, golden, drop=[dense], reshape=word, extra=surplus)
    with pytest.raises(InputError) as caught:
        load(folder)
    told = str(caught.value)
    assert "\n" not in told
    assert told.startswith(str(folder))
    assert f"1 missing: {dense}" in told
    assert "1 unexpected: surplus" in told
    assert f"1 unfit: {word} (float32 (39, 16) for float (40, 16))" in told


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"num_attention_heads": 3}, "3 heads"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"hidden_size": "16"}, "hidden_size = '16'"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True"),
        ({"layer_norm_eps": None}, "layer_norm_eps = None"),
        ({"hidden_size": 2**70}, "config.json describes a model that cannot be built"),
    ],
)
def test_bad_config_is_named(golden, tmp_path, config, named):
    with pytest.raises(InputError, match=r"config\.json") as caught:
        load(write_folder(tmp_path, golden, **config))
    assert named in str(caught.value)


def test_more_layers_than_weights_are_refused_before_they_are_built(golden, tmp_path):
    with pytest.raises(
        InputError, match=rf"num_hidden_layers = {2**63} is not a whole number from 1 to 1024"
    ):
        load(write_folder(tmp_path, golden, num_hidden_layers=2**63))


def test_layer_norm_eps_is_never_assumed(golden, tmp_path):
    raw = json.loads(str(golden["config"]))
    del raw["layer_norm_eps"]
    with pytest.raises(InputError, match=r"config\.json: lacks layer_norm_eps"):
        checkpoints.load(write_folder(tmp_path, golden), raw)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:100], lambda data: b"\xff" * 16 + data, lambda data: b""]
)
def test_damaged_safetensors(golden, tmp_path, damage):
    weights = write_folder(tmp_path, golden) / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors: not a readable safetensors"):
        load(tmp_path)

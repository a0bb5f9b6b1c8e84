"""Every format in and out: the same bits come back, each is recognised, what does not fit is told at once."""

import functools
import json
import shutil
from pathlib import Path

import golden
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cusa_jax import scalars
from cusa_jax.checkpoint import Checkpoints
from cusa_jax.config import default_config
from cusa_jax.errors import InputError
from cusa_jax.experiment import build_model
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.dual_encoder import DualEncoder, init_variables
from cusa_jax.types import TrainState
from cusa_jax.weights import student, torch_file
from cusa_jax.weights.formats import read_weights, write_weights

CLIP = ClipConfig(
    embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=2, text_width=64, text_layers=1,
    vocab_size=99, context_length=12,
)  # fmt: skip
HEADED = (".pth", ".safetensors")
OUT = (*HEADED, ".pt", "")


def recipe(**weights: float):
    config = default_config()
    config.data.path, config.model.name = "captions", "auto"
    for term, weight in weights.items():
        config.loss[term].weight = weight
    return config


@functools.cache
def params():
    """Every leaf another, none at its initial value."""
    shapes = jax.eval_shape(functools.partial(init_variables, DualEncoder(CLIP)), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes["params"])


def weights(config=None) -> student.Weights:
    config = config or recipe()
    specs = scalars.specifications(config.loss)
    taus = {name: np.float32(0.3 + 0.01 * n) for n, name in enumerate(specs)}
    kept = {
        module: tree for module, tree in params().items() if "uni" not in module or config.loss.usa.weight
    }
    return student.from_variables(CLIP, {"params": kept}, taus, config)


def read_params(weights: student.Weights, heads, where):
    return student.variables(weights, heads, where)["params"]


def assert_same_params(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), ours, theirs)


def state() -> TrainState:
    return TrainState(
        step=np.int32(7),
        params={"model": params(), "taus": dict(weights().taus)},
        model_state={},
        opt_state=None,
    )


def openai_tensors():
    return dict(student.towers(weights()))


# --- round trips ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OUT)
def test_the_same_bits_come_back(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    write_weights(path, weights())
    read = read_weights(path, "quick_gelu")
    assert read.clip == CLIP
    assert read.heads == (("cross", "uni") if suffix in HEADED else ())
    kept = {module: tree for module, tree in params().items() if module in ("image", "text") or read.heads}
    assert_same_params(read_params(read, read.heads, path), kept)
    assert [path] == list(tmp_path.iterdir())  # and no scratch files


@pytest.mark.parametrize("suffix", HEADED)
@pytest.mark.parametrize("off", [(), ("csa", "usa"), ("usa",), ("csa",)])
def test_temperatures_and_recipe_come_back(tmp_path, suffix, off):
    """CUSA's four variants; where CSA is off, USA gets the temperatures that it borrowed as its own."""
    before = weights(recipe(**dict.fromkeys(off, 0.0)))
    write_weights(tmp_path / f"w{suffix}", before)
    after = read_weights(tmp_path / f"w{suffix}")
    assert after.heads == before.heads
    assert after.config.loss.usa.weight == before.config.loss.usa.weight
    own = {name for name in before.taus if before.config.loss[name.split("_")[1]].weight}
    for name in own if suffix == ".pth" else before.taus:
        assert after.taus[name].tobytes() == before.taus[name].tobytes()
    if suffix == ".pth" and off == ("csa",):
        assert after.taus["tau_usa_teacher"].tobytes() == before.taus["tau_csa_teacher"].tobytes()
    if suffix == ".safetensors":
        assert after.config == before.config


def test_a_training_goes_home(tmp_path):
    """Orbax folder -> the reference's .pth -> the same parameters, in the reference's names and shapes."""
    before = weights()
    config = recipe()
    described = {"config": config.to_dict(), "clip": CLIP.__dict__}
    checkpoints = Checkpoints(tmp_path / "run", described, keep=1)
    checkpoints.save_best(7, state(), {"r_mean": 1.0})
    checkpoints.close()
    trained = read_weights(tmp_path / "run")
    assert (trained.clip, trained.config) == (CLIP, config)
    write_weights(tmp_path / "home.pth", trained)

    saved = torch_file.read(tmp_path / "home.pth")
    assert saved.keys() == {"model", "config", "epoch", "best", "best_epoch"}
    model = saved["model"]
    heads = {name: tensor.shape for name, tensor in golden.head_tensors(16).items()}
    taus = {"tau", "cross_tau", "cross_the_softlabel_tau", "uni_tau_image", "uni_tau_text"}
    assert {name for name in model if not name.startswith("clip_model.")} == heads.keys() | taus
    assert all(model[name].shape == shape for name, shape in heads.items())
    assert all(model[name].shape == () for name in taus)
    np.testing.assert_array_equal(
        model["cross_image_projection.weight"], params()["cross_image"]["linear"]["kernel"].T
    )
    np.testing.assert_array_equal(
        model["clip_model.visual.conv1.weight"],
        params()["image"]["patch_embedding"]["kernel"].transpose(3, 2, 0, 1),
    )
    back = read_weights(tmp_path / "home.pth")
    assert_same_params(read_params(back, back.heads, "home"), params())
    assert {name: float(tau) for name, tau in back.taus.items()} == {
        n: float(t) for n, t in before.taus.items()
    }


RESNET = ClipConfig(
    embed_dim=16, image_size=32, patch_size=32, vision_width=8, vision_layers=0, text_width=64, text_layers=1,
    vocab_size=99, context_length=12, resnet_blocks=(1, 2, 1, 1),
)  # fmt: skip


@pytest.mark.parametrize("suffix", [*HEADED, ".pt"])
def test_a_resnet_comes_back_with_its_running_statistics(tmp_path, suffix):
    shapes = jax.eval_shape(functools.partial(init_variables, DualEncoder(RESNET)), jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    before = student.from_variables(RESNET, variables, weights().taus, recipe())
    path = tmp_path / f"w{suffix}"
    write_weights(path, before)
    read = read_weights(path, "quick_gelu")
    assert read.clip == RESNET
    after = student.variables(read, read.heads, path)
    assert_same_params(after["batch_stats"], variables["batch_stats"])
    assert_same_params(after["params"]["image"], variables["params"]["image"])
    if suffix != ".safetensors":  # what PyTorch's strict loading asks for
        saved = torch_file.flatten(torch_file.read(path)).items()
        counters = [tensor for name, tensor in saved if name.endswith("bn1.num_batches_tracked")]
        assert len(counters) == 6
        assert all(counter.dtype == np.int64 and counter.shape == () for counter in counters)


def test_the_reference_s_checkpoint_has_no_logit_scale(tmp_path):
    """Its strict loading would refuse it (clip/model.py:454)."""
    before = weights()
    scaled = student.Weights(
        CLIP, openai_tensors() | dict(before.tensors), before.heads, before.taus, before.config
    )
    assert "logit_scale" in scaled.tensors
    write_weights(tmp_path / "w.pth", scaled)
    assert not any("logit_scale" in name for name in torch_file.read(tmp_path / "w.pth")["model"])


def test_a_resnet_is_no_hugging_face_clip(tmp_path):
    with pytest.raises(InputError, match="vision transformers only"):
        write_weights(tmp_path / "hf", student.Weights(RESNET, {}))


# --- other people's files -------------------------------------------------------------------------------------


def half(tensors):
    return {name: tensor.astype(np.float16) for name, tensor in tensors.items()}


OPEN_CLIP = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 12, "vocab_size": 99, "width": 64, "heads": 4, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073]},
}


def open_clip_folder(path: Path, **model) -> Path:
    path.mkdir()
    described = OPEN_CLIP | {"model_cfg": OPEN_CLIP["model_cfg"] | model}
    (path / "open_clip_config.json").write_text(json.dumps(described))
    torch_file.write(path / "open_clip_pytorch_model.bin", openai_tensors())
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "epoch": 3, "optimizer": {"state": {0: {"step": np.float32(1)}}}},
        lambda tensors: {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}},
        lambda tensors: {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {
            name if name == "logit_scale" or name.startswith("visual.") else f"text.{name}": tensor
            for name, tensor in tensors.items()
        },
        lambda tensors: tensors | {name: np.int64(3) for name in ("input_resolution", "context_length", "vocab_size")},
    ],
    ids=["plain", "nested", "ddp", "compiled", "custom_text", "openai"],
)  # fmt: skip
def test_state_dicts(tmp_path, wrap):
    torch_file.write(tmp_path / "x.pt", wrap(openai_tensors()))
    read = read_weights(tmp_path / "x.pt", "gelu")
    assert read.clip == ClipConfig(**CLIP.__dict__ | {"activation": "gelu"})
    assert_same_params(read_params(read, (), "x"), {tower: params()[tower] for tower in ("image", "text")})


def test_half_precision_is_read_exactly(tmp_path):
    torch_file.write(tmp_path / "x.pt", half(openai_tensors()))
    read = read_weights(tmp_path / "x.pt", "gelu").tensors
    for name, tensor in half(openai_tensors()).items():
        np.testing.assert_array_equal(read[name], tensor.astype(np.float32), strict=True)


def test_open_clips_folder_says_heads_and_activation(tmp_path):
    read = read_weights(open_clip_folder(tmp_path / "a")).clip
    assert (read.vision_heads, read.text_heads, read.activation) == (2, 4, "gelu")
    assert read_weights(open_clip_folder(tmp_path / "b", quick_gelu=True)).clip.activation == "quick_gelu"


def test_open_clips_other_pixels_are_refused(tmp_path):
    folder = open_clip_folder(tmp_path / "a")
    (folder / "open_clip_config.json").write_text(
        json.dumps(OPEN_CLIP | {"preprocess_cfg": {"mean": [0.5] * 3}})
    )
    with pytest.raises(InputError, match="pixels of mean"):
        read_weights(folder)


def test_the_activation_is_never_guessed(tmp_path):
    write_weights(tmp_path / "x.pt", weights())
    with pytest.raises(InputError, match="does not say its activation"):
        read_weights(tmp_path / "x.pt")
    write_weights(tmp_path / "x.safetensors", weights())
    with pytest.raises(InputError, match="its activation is quick_gelu, not gelu"):
        read_weights(tmp_path / "x.safetensors", "gelu")
    with pytest.raises(InputError, match="'relu' is none of quick_gelu, gelu"):
        read_weights(tmp_path / "x.pt", "relu")


def test_hugging_face_pickles_fused_projections_and_both_conventions_of_the_end_token(tmp_path):
    write_weights(tmp_path / "hf", weights())
    tensors = load_file(tmp_path / "hf/model.safetensors")
    for layer in ("vision_model.encoder.layers.1", "text_model.encoder.layers.0"):
        for leaf in ("weight", "bias"):
            parts = [tensors.pop(f"{layer}.self_attn.{part}_proj.{leaf}") for part in "qkv"]
            tensors[f"{layer}.self_attn.qkv_proj.{leaf}"] = np.concatenate(parts)
    (tmp_path / "hf/model.safetensors").unlink()
    torch_file.write(tmp_path / "hf/pytorch_model.bin", tensors)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["text_config"]["eos_token_id"] == 98
    for eos in (98, 2, None):
        config["text_config"]["eos_token_id"] = eos
        (tmp_path / "hf/config.json").write_text(json.dumps(config))
        read = read_weights(tmp_path / "hf")
        assert_same_params(
            read_params(read, (), "hf"), {tower: params()[tower] for tower in ("image", "text")}
        )
    config["text_config"]["eos_token_id"] = 97
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="eos_token_id is 97"):
        read_weights(tmp_path / "hf")


# --- what does not fit ----------------------------------------------------------------------------------------


def test_every_wrong_key_is_told_at_once(tmp_path):
    tensors = openai_tensors()
    del tensors["visual.ln_post.bias"]
    tensors |= {"extra\n": np.zeros(2, np.float32), "visual.proj": np.zeros((64, 17), np.float32)}
    tensors["ln_final.bias"] = np.zeros(64, np.int64)
    torch_file.write(tmp_path / "x.pt", tensors)
    told = r"1 missing: visual.ln_post.bias; 1 unexpected: extra\?; 2 unfit: .*visual.proj.*ln_final.bias"
    with pytest.raises(InputError, match=told):
        read_weights(tmp_path / "x.pt", "gelu")


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({}, "not the weights of a CLIP"),
        ({"patch_embed.proj.weight": np.zeros(3)}, "UNICOM, an image teacher"),
        ({"vision_model.post_layernorm.weight": np.zeros(3)}, "give the folder, with its config.json"),
        ({"ln_final.weight": np.zeros(1280)}, "do not tell their number of heads"),
        ({"ln_final.weight": np.zeros(()), "text_projection": np.zeros(3)}, "shapes that no CLIP has"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_weights_are_told(tmp_path, tensors, told, suffix):
    path = tmp_path / f"x{suffix}"
    tensors = openai_tensors() | tensors if "ln_final.weight" in tensors else tensors
    torch_file.write(path, tensors) if suffix == ".pt" else save_file(tensors, path)
    with pytest.raises(InputError, match=told):
        read_weights(path, "gelu")


def test_what_the_reference_cannot_be_is_not_written(tmp_path):
    path = tmp_path / "x.pth"
    gelu = student.Weights(
        ClipConfig(**CLIP.__dict__ | {"activation": "gelu"}), weights().tensors, config=recipe()
    )
    bare = student.Weights(CLIP, openai_tensors())
    fewer = student.Weights(CLIP, openai_tensors(), config=recipe())
    for unfit, told in (
        (gelu, "quick_gelu"),
        (bare, "has heads and a recipe"),
        (fewer, r"the heads \('cross', 'uni'\)"),
    ):
        with pytest.raises(InputError, match=told):
            write_weights(path, unfit)
    with pytest.raises(InputError, match=r"\.onnx is none of"):
        write_weights(tmp_path / "x.onnx", weights())
    assert not any(tmp_path.iterdir())


# --- starting a training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OUT)
def test_init_from_takes_every_format(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("cusa_jax.experiment.VOCAB_SIZE", CLIP.vocab_size)
    write_weights(tmp_path / f"w{suffix}", weights())
    config = recipe()
    config.init_from, config.model.activation = str(tmp_path / f"w{suffix}"), "quick_gelu"
    model, variables = build_model(config)
    loaded = variables["params"]
    assert model.clip == CLIP
    same = {module: params()[module] for module in (params() if suffix in HEADED else ("image", "text"))}
    assert_same_params({module: jax.device_get(loaded[module]) for module in same}, same)
    fresh = loaded["uni_image"]["linear"]["kernel"]
    assert (np.std(fresh) < 0.03) == (suffix not in HEADED)


def test_heads_that_the_losses_do_not_use_stay_behind(tmp_path):
    write_weights(tmp_path / "w.pth", weights())
    kept = read_params(read_weights(tmp_path / "w.pth"), ("cross",), "w.pth")
    assert sorted(kept) == ["cross_image", "cross_text", "image", "text"]


# --- damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["w.pth", "w.pt", "w.safetensors", "w/config.json", "w/model.safetensors",
                                  "open_clip/open_clip_config.json"])  # fmt: skip
def test_damage_is_an_input_error_or_harmless(tmp_path, form):
    if form.startswith("open_clip"):
        open_clip_folder(tmp_path / "open_clip")
    else:
        write_weights(tmp_path / form.split("/")[0], weights())
    path, source = tmp_path / form, tmp_path / form.split("/")[0]
    data, messages = path.read_bytes(), []
    for content in golden.damaged(data, truncations=15, flips=35):
        path.write_bytes(content)
        try:
            read_weights(source, "quick_gelu" if form == "w.pt" else "")
        except InputError as error:
            messages.append(str(error))
    assert len(messages) >= 15
    assert not any("\n" in message for message in messages)


def test_damaged_training_folder(tmp_path):
    config = recipe()
    checkpoints = Checkpoints(tmp_path / "run", {"config": config.to_dict(), "clip": CLIP.__dict__}, keep=1)
    checkpoints.save_best(7, state(), {"r_mean": 1.0})
    checkpoints.close()
    largest = max((tmp_path / "run/best").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    with pytest.raises(InputError, match=r"best/7: the best model is damaged"):
        read_weights(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/best/7")
    with pytest.raises(InputError, match="no checkpoint in it"):
        read_weights(tmp_path / "run")

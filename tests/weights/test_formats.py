"""Every format in and out: the same bits come back, each is recognised, what does not fit is told at once."""

import dataclasses
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
from cusa_jax.config import default_config, typed
from cusa_jax.errors import InputError
from cusa_jax.experiment import build_student
from cusa_jax.models import clip, families
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.student import Options
from cusa_jax.step import init_state, make_recipe
from cusa_jax.types import TrainState
from cusa_jax.weights import torch_file
from cusa_jax.weights.format import Format
from cusa_jax.weights.formats import FORMATS, load_model, read_weights, write_weights
from cusa_jax.weights.hub import Weights, heads_in, start_from
from cusa_jax.weights.torch_layout import write_safetensors

CLIP = ClipConfig(
    embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=2, text_width=64, text_layers=1,
    vocab_size=99, context_length=12,
)  # fmt: skip
HEADED = (".pth", ".safetensors")
OUT = (*HEADED, ".pt", "")
PIXELS = {"mean": (0.5, 0.25, 0.125), "std": (0.5, 0.5, 0.25)}  # of no CLIP of OpenAI's


def recipe(**weights: float):
    config = default_config()
    config.data.path, config.model.name = "captions", "auto"
    for term, weight in weights.items():
        config.loss[term].weight = weight
    return config


@functools.cache
def params():
    """Every leaf another, none at its initial value."""
    shapes = jax.eval_shape(clip.student(CLIP, Options()).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes["params"])


def towers():
    return {tower: params()[tower] for tower in ("image", "text")}


def learned(config):
    names = scalars.specifications(config.loss)
    return {name: np.float32(0.3 + 0.01 * n) for n, name in enumerate(names)}


def weights(config=None, **sizes) -> Weights:
    config = config or recipe()
    kept = {
        module: tree for module, tree in params().items() if "uni" not in module or config.loss.usa.weight
    }
    variables = {"params": kept}
    clip_sizes = ClipConfig(**CLIP.__dict__ | sizes)
    return Weights("clip", clip_sizes, variables, heads_in(variables), learned(config), config)


def without_heads(held: Weights) -> Weights:
    return dataclasses.replace(held, variables=held.towers, heads=())


def writable(suffix, held: Weights) -> Weights:
    """As the format can hold it."""
    return held if suffix in HEADED else without_heads(held)


def assert_same_params(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), ours, theirs)


def state() -> TrainState:
    return TrainState(
        step=np.int32(7),
        params={"model": params(), "scalars": learned(recipe())},
        model_state={},
        opt_state=None,
    )


def openai_tensors(tmp_path):
    """As OpenAI's .pt has them, whose key table tests/models prove."""
    write_weights(tmp_path / "openai.pt", without_heads(weights()))
    tensors = torch_file.read(tmp_path / "openai.pt")
    (tmp_path / "openai.pt").unlink()
    return dict(tensors)


# --- round trips ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OUT)
def test_the_same_bits_come_back(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    write_weights(path, writable(suffix, weights()))
    read = read_weights(path, "quick_gelu")
    assert (read.family, read.sizes) == ("clip", CLIP)
    assert read.heads == (("cross", "uni") if suffix in HEADED else ())
    assert_same_params(read.variables, {"params": params() if read.heads else towers()})
    assert [path] == list(tmp_path.iterdir())  # and no scratch files


@pytest.mark.parametrize("suffix", [".safetensors", ""])
def test_pixels_of_its_own_come_back(tmp_path, suffix):
    """Bit for bit: what a student normalises with is in its sizes."""
    write_weights(tmp_path / f"w{suffix}", writable(suffix, weights(**PIXELS)))
    student, _ = load_model(tmp_path / f"w{suffix}")
    assert (student.inputs.image.mean, student.inputs.image.std) == (PIXELS["mean"], PIXELS["std"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ""])
def test_clips_own_logit_scale_survives(tmp_path, suffix):
    before = Weights("clip", CLIP, {"params": towers()}, extras={"logit_scale": np.float32(3.25)})
    write_weights(tmp_path / f"w{suffix}", before)
    after = read_weights(tmp_path / f"w{suffix}", "quick_gelu")
    assert after.extras["logit_scale"].tobytes() == np.float32(3.25).tobytes()
    assert (after.extras["logit_scale"].shape, after.scalars) == ((), {})


@pytest.mark.parametrize("suffix", [".pt", ""])
def test_a_trained_temperature_is_the_logit_scale(tmp_path, suffix):
    write_weights(tmp_path / f"w{suffix}", writable(suffix, weights()))
    scale = read_weights(tmp_path / f"w{suffix}", "quick_gelu").extras["logit_scale"]
    np.testing.assert_allclose(np.exp(-scale), learned(recipe())["tau_contrastive"], rtol=1e-6)


@pytest.mark.parametrize("suffix", HEADED)
@pytest.mark.parametrize("off", [(), ("csa", "usa"), ("usa",), ("csa",)])
def test_temperatures_and_recipe_come_back(tmp_path, suffix, off):
    """CUSA's four variants; where CSA is off, USA gets the temperatures that it borrowed as its own."""
    before = weights(recipe(**dict.fromkeys(off, 0.0)))
    write_weights(tmp_path / f"w{suffix}", before)
    after = read_weights(tmp_path / f"w{suffix}")
    assert after.heads == before.heads
    assert after.config.loss.usa.weight == before.config.loss.usa.weight
    own = {name for name in before.scalars if before.config.loss[name.split("_")[1]].weight}
    for name in own if suffix == ".pth" else before.scalars:
        assert after.scalars[name].tobytes() == before.scalars[name].tobytes()
    if suffix == ".pth" and off == ("csa",):
        assert after.scalars["tau_usa_teacher"].tobytes() == before.scalars["tau_csa_teacher"].tobytes()
    if suffix == ".safetensors":
        assert after.config == before.config


def test_a_training_goes_home(tmp_path):
    """Orbax folder -> the reference's .pth -> the same parameters, in the reference's names and shapes."""
    config = recipe()
    save_best(tmp_path / "run", config)
    trained = read_weights(tmp_path / "run")
    assert (trained.sizes, trained.config) == (CLIP, config)
    assert_same_params(trained.variables, {"params": params()})
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
    assert_same_params(back.variables, {"params": params()})
    assert {name: float(value) for name, value in back.scalars.items()} == {
        name: float(value) for name, value in learned(config).items()
    }


def save_best(workdir, config, described=None, saved=None):
    described = described or {"config": config.to_dict(), **families.describe("clip", CLIP)}
    checkpoints = Checkpoints(workdir, described, keep=1)
    checkpoints.save_best(7, saved or state(), {"r_mean": 1.0})
    checkpoints.close()


RESNET = ClipConfig(
    embed_dim=16, image_size=32, patch_size=32, vision_width=8, vision_layers=0, text_width=64, text_layers=1,
    vocab_size=99, context_length=12, resnet_blocks=(1, 2, 1, 1),
)  # fmt: skip


@pytest.mark.parametrize("suffix", [*HEADED, ".pt"])
def test_a_resnet_comes_back_with_its_running_statistics(tmp_path, suffix):
    shapes = jax.eval_shape(clip.student(RESNET, Options()).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    before = Weights("clip", RESNET, variables, ("cross", "uni"), learned(recipe()), recipe())
    path = tmp_path / f"w{suffix}"
    write_weights(path, writable(suffix, before))
    after = read_weights(path, "quick_gelu")
    assert after.sizes == RESNET
    assert_same_params(after.variables["batch_stats"], variables["batch_stats"])
    assert_same_params(after.variables["params"]["image"], variables["params"]["image"])
    if suffix != ".safetensors":  # what PyTorch's strict loading asks for
        saved = torch_file.flatten(torch_file.read(path)).items()
        counters = [tensor for name, tensor in saved if name.endswith("bn1.num_batches_tracked")]
        assert len(counters) == 6
        assert all(counter.dtype == np.int64 and counter.shape == () for counter in counters)


def test_the_reference_s_checkpoint_has_no_logit_scale(tmp_path):
    """Its strict loading would refuse it (clip/model.py:454)."""
    with_scale = Weights(**weights().__dict__ | {"extras": {"logit_scale": np.float32(4)}})
    write_weights(tmp_path / "x.pth", with_scale)
    assert not any("logit_scale" in name for name in torch_file.read(tmp_path / "x.pth")["model"])


def test_hugging_face_has_no_resnet(tmp_path):
    with pytest.raises(InputError, match="vision transformers only"):
        write_weights(tmp_path / "hf", Weights("clip", RESNET, {}))


# --- files of older versions ----------------------------------------------------------------------------------


def described_before_there_were_families(config):
    sizes = {name: value for name, value in CLIP.__dict__.items() if name not in ("mean", "std")}
    return {"clip": sizes, "config": config.to_dict()}


def test_safetensors_with_openais_names_are_read(tmp_path):
    """Heads under the reference's names, temperatures without 'tau_'."""
    config = recipe()
    write_weights(tmp_path / "w.pth", weights())
    model = torch_file.read(tmp_path / "w.pth")["model"]
    tensors = {
        name.removeprefix("clip_model."): tensor for name, tensor in model.items() if "tau" not in name
    }
    tensors |= {f"temperatures.{name.removeprefix('tau_')}": tau for name, tau in learned(config).items()}
    header = {"cusa_jax": json.dumps(described_before_there_were_families(config))}
    write_safetensors(tmp_path / "old.safetensors", tensors, header)
    read = read_weights(tmp_path / "old.safetensors")
    assert (read.sizes, read.heads, read.config) == (CLIP, ("cross", "uni"), config)
    assert_same_params(read.variables, {"params": params()})
    assert read.scalars == learned(config)


def test_runs_with_temperatures_alone_are_read(tmp_path, monkeypatch):
    config = recipe()
    taus = {name.removeprefix("tau_"): value for name, value in learned(config).items()}
    monkeypatch.setattr(
        "cusa_jax.checkpoint._learned", lambda state: {"variables": state.variables, "taus": taus}
    )
    save_best(tmp_path / "run", config, described_before_there_were_families(config))
    read = read_weights(tmp_path / "run")
    assert (read.sizes, read.config, dict(read.scalars)) == (CLIP, config, learned(config))
    assert_same_params(read.variables, {"params": params()})


def test_a_file_of_a_newer_version_is_refused(tmp_path):
    header = {"cusa_jax": json.dumps({"format": 3, **families.describe("clip", CLIP), "heads": []})}
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "w.safetensors", header)
    with pytest.raises(InputError, match="of version 3, newer than this program"):
        read_weights(tmp_path / "w.safetensors")


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
    torch_file.write(path / "open_clip_pytorch_model.bin", openai_tensors(path))
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
    torch_file.write(tmp_path / "x.pt", wrap(openai_tensors(tmp_path)))
    read = read_weights(tmp_path / "x.pt", "gelu")
    assert read.sizes == ClipConfig(**CLIP.__dict__ | {"activation": "gelu"})
    assert_same_params(read.variables, {"params": towers()})


def test_half_precision_is_read_exactly(tmp_path):
    torch_file.write(tmp_path / "x.pt", half(openai_tensors(tmp_path)))
    read = read_weights(tmp_path / "x.pt", "gelu").variables["params"]
    halved = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), towers())
    assert_same_params(read, halved)


def test_open_clips_folder_says_heads_and_activation(tmp_path):
    read = read_weights(open_clip_folder(tmp_path / "a")).sizes
    assert (read.vision_heads, read.text_heads, read.activation) == (2, 4, "gelu")
    assert read_weights(open_clip_folder(tmp_path / "b", quick_gelu=True)).sizes.activation == "quick_gelu"


PREPROCESS = {
    "size": 16,
    "mode": "RGB",
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def test_open_clips_pixels_are_honoured_or_refused_by_name(tmp_path):
    folder = open_clip_folder(tmp_path / "a")

    def read(**preprocess):
        described = OPEN_CLIP | {"preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(described))
        return read_weights(folder).sizes

    own = read(**PREPROCESS, mean=[0.5, 0.25, 0.125], std=[0.5, 0.5, 0.25])
    assert (own.mean, own.std) == (PIXELS["mean"], PIXELS["std"])
    clips = ClipConfig(**CLIP.__dict__ | {"activation": "gelu", "vision_heads": 2, "text_heads": 4})
    assert (
        read(**PREPROCESS) == read(mean=[0.481455, 0.457828, 0.408211]) == clips
    )  # as some files round CLIP's
    for key, value in (
        ("interpolation", "bilinear"),
        ("resize_mode", "squash"),
        ("size", 32),
        ("crop_pct", 0.9),
    ):
        with pytest.raises(InputError, match=rf"open_clip_config\.json: {key}=.*remove"):
            read(**PREPROCESS | {key: value})
    for key, value in (
        ("mean", [0.5] * 2),
        ("std", [0.5, 0.0, 0.5]),
        ("std", "0.5"),
        ("mean", [0.5, "x", 1]),
    ):
        with pytest.raises(InputError, match=f"{key}=.* is not one number for each channel"):
            read(**{key: value})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("vision_cfg", "timm_model_name", "x"), ("vision_cfg", "pool_type", "argmax"), ("text_cfg", "pool_type", "tok"),
     ("text_cfg", "proj_type", "none"), ("text_cfg", "proj_type", None),
     ("text_cfg", "tokenizer_kwargs", {"clean": "lower"}),
     ("vision_cfg", "future", False), ("vision_cfg", "norm_kwargs", {"eps": 1e-6})],
)  # fmt: skip
def test_parts_of_open_clip_that_no_clip_has_are_named(tmp_path, section, key, value):
    folder = open_clip_folder(tmp_path / "a", **{section: OPEN_CLIP["model_cfg"][section] | {key: value}})
    with pytest.raises(InputError, match=rf"{section}\.{key}="):
        read_weights(folder)


def test_open_clips_own_defaults_are_read(tmp_path):
    """All that its version 3.3 has in its sections."""
    both = {
        "ls_init_value": None,
        "block_type": None,
        "qk_norm": False,
        "scale_fc": False,
        "output_tokens": False,
    }
    vision = both | {
        "pool_type": "tok",
        "pos_embed_type": "learnable",
        "patch_dropout": 0.5,
        "timm_proj": "linear",
    }
    text = both | {"pool_type": "argmax", "proj_type": "linear", "proj_bias": False, "eos_id": 2, "pad_id": 0}
    said = {
        section: OPEN_CLIP["model_cfg"][section] | values
        for section, values in (("vision_cfg", vision), ("text_cfg", text))
    }
    read = read_weights(open_clip_folder(tmp_path / "a", **said, custom_text=False)).sizes
    assert read == read_weights(open_clip_folder(tmp_path / "b")).sizes


def test_a_folder_of_both_kinds_is_read_by_the_weights_that_it_holds(tmp_path):
    bare = without_heads(weights())
    write_weights(tmp_path / "both", bare)
    (tmp_path / "both/open_clip_config.json").write_text(json.dumps(OPEN_CLIP))
    assert_same_params(read_weights(tmp_path / "both").variables["params"], bare.variables["params"])


def test_the_activation_is_never_guessed(tmp_path):
    write_weights(tmp_path / "x.pt", without_heads(weights()))
    with pytest.raises(InputError, match="does not say its activation"):
        read_weights(tmp_path / "x.pt")
    write_weights(tmp_path / "x.safetensors", weights())
    with pytest.raises(InputError, match="its activation is quick_gelu, not gelu"):
        read_weights(tmp_path / "x.safetensors", "gelu")
    with pytest.raises(InputError, match="'relu' is none of quick_gelu, gelu"):
        read_weights(tmp_path / "x.pt", "relu")


def test_hugging_face_pickles_fused_projections_and_both_conventions_of_the_end_token(tmp_path):
    write_weights(tmp_path / "hf", without_heads(weights()))
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
        assert_same_params(read.variables, {"params": towers()})
    config["text_config"]["eos_token_id"] = 97
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="eos_token_id is 97"):
        read_weights(tmp_path / "hf")


# --- what does not fit ----------------------------------------------------------------------------------------


def test_keys_of_another_model_are_counted(tmp_path):
    tensors = {name.replace(".mlp.", ".ffn."): x for name, x in openai_tensors(tmp_path).items()}
    torch_file.write(tmp_path / "x.pt", tensors)
    with pytest.raises(
        InputError, match=r"\d+ missing: .* and \d+ more; \d+ unexpected: .* and \d+ more$"
    ) as raised:
        read_weights(tmp_path / "x.pt", "gelu")
    assert len(str(raised.value)) < 2000


def test_every_wrong_key_is_told_at_once(tmp_path):
    tensors = openai_tensors(tmp_path)
    del tensors["visual.ln_post.bias"]
    tensors |= {"extra\n": np.zeros(2, np.float32), "visual.proj": np.zeros((64, 17), np.float32)}
    tensors["ln_final.bias"] = np.zeros(64, np.int64)
    torch_file.write(tmp_path / "x.pt", tensors)
    told = r"1 missing: visual.ln_post.bias; 1 unexpected: extra\\n; 2 unfit: .*visual.proj.*ln_final.bias"
    with pytest.raises(InputError, match=told):
        read_weights(tmp_path / "x.pt", "gelu")


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({}, "not the weights of a model that is read here .clip, sgraf.: it holds no tensors"),
        ({"a.b": np.zeros(3)}, "it holds tensors such as a.b"),
        ({"visual.proj": np.zeros((3, 3))}, "not the weights of a CLIP: there is no text_projection"),
        ({"patch_embed.proj.weight": np.zeros(3)}, "UNICOM, an image teacher"),
        ({"vision_model.post_layernorm.weight": np.zeros(3)}, "give the folder, with its config.json"),
        ({"ln_final.weight": np.zeros(1280)}, "do not tell their number of heads"),
        ({"ln_final.weight": np.zeros(()), "text_projection": np.zeros(3)}, "shapes that no CLIP has"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_weights_are_told(tmp_path, tensors, told, suffix):
    path = tmp_path / f"x{suffix}"
    tensors = openai_tensors(tmp_path) | tensors if "ln_final.weight" in tensors else tensors
    torch_file.write(path, tensors) if suffix == ".pt" else save_file(tensors, path)
    with pytest.raises(InputError, match=told):
        read_weights(path, "gelu")


def test_what_the_reference_cannot_be_is_not_written(tmp_path):
    path = tmp_path / "x.pth"
    gelu, pixels = weights(activation="gelu"), weights(**PIXELS)
    bare = Weights("clip", CLIP, {"params": towers()})
    fewer = Weights("clip", CLIP, {"params": towers()}, config=recipe())
    sigmoid = recipe()
    sigmoid.loss.sigmoid.weight = 1.0
    for unfit, told in (
        (gelu, "quick_gelu"),
        (pixels, "CLIP's pixels"),
        (weights(sigmoid), "has no sigmoid loss"),
        (bare, "has heads and a recipe"),
        (fewer, r"the heads \('cross', 'uni'\)"),
    ):
        with pytest.raises(InputError, match=told):
            write_weights(path, unfit)
    with pytest.raises(InputError, match=r"\.onnx is none of .*: \.pt, \.pth, \.safetensors, and a folder"):
        write_weights(tmp_path / "x.onnx", weights())
    assert not any(tmp_path.iterdir())


# --- starting a training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OUT)
def test_a_training_starts_from_what_the_weights_have(tmp_path, suffix):
    write_weights(tmp_path / f"w{suffix}", writable(suffix, weights()))
    read = read_weights(tmp_path / f"w{suffix}", "quick_gelu")
    fresh = jax.jit(clip.student(CLIP, Options()).init)(jax.random.key(0))
    start = start_from(read, fresh)["params"]
    here = params() if suffix in HEADED else towers()
    assert_same_params({module: start[module] for module in here}, here)
    assert all(start[module] is fresh["params"][module] for module in start.keys() - here.keys())
    assert start.keys() == fresh["params"].keys()
    assert dict(read.scalars) == (learned(recipe()) if suffix in HEADED else {})


def test_a_training_takes_the_scalars_of_a_run_along(tmp_path):
    """What its losses have of them; the others are at their start."""
    brought = {
        "tau_contrastive": np.float32(0.0625),
        "tau_csa": np.float32(0.5),
        "tau_of_other_losses": np.float32(1),
    }
    write_weights(tmp_path / "w.safetensors", Weights(**weights().__dict__ | {"scalars": brought}))
    config = recipe()
    config.init_from = str(tmp_path / "w.safetensors")
    student, variables, values = build_student(typed(config))
    assert (student.sizes, dict(values)) == (CLIP, brought)
    plan = make_recipe(student, typed(config).loss, config.optim, np.ones(1))
    state = init_state(plan, variables, values)
    expected = {name: scalar.init for name, scalar in plan.scalars.items()}
    expected |= {"tau_contrastive": 0.0625, "tau_csa": 0.5}
    started = {name: float(value) for name, value in state.params["scalars"].items()}
    assert started == pytest.approx(expected)


def test_heads_that_the_losses_do_not_use_stay_behind():
    fresh = jax.eval_shape(clip.student(CLIP, Options(heads=("cross",))).init, jax.random.key(0))
    start = start_from(weights(), fresh)["params"]
    assert sorted(start) == ["cross_image", "cross_text", "image", "text"]


# --- another family -------------------------------------------------------------------------------------------


def test_a_family_adds_its_own_format(tmp_path, monkeypatch):
    """A folder that no format of ours takes, by the content of its config.json."""
    (tmp_path / "config.json").write_text('{"model_type": "blip", "text_config": {}, "vision_config": {}}')
    with pytest.raises(
        InputError, match=r"config\.json says model_type 'blip'; read are folders of clip, siglip$"
    ):
        read_weights(tmp_path)
    theirs = Format(
        "its folder",
        "blip",
        recognises=lambda source: source.config.get("model_type") == "blip",
        read=lambda source: Weights("blip", source.path, {"params": {}}),
    )
    monkeypatch.setitem(FORMATS, "blip", theirs)
    assert read_weights(tmp_path).sizes == tmp_path
    with pytest.raises(InputError, match=r"\.pt is none of the ways to write a blip model: \.safetensors$"):
        write_weights(tmp_path / "x.pt", Weights("blip", CLIP, {"params": {}}))


# --- damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["w.pth", "w.pt", "w.safetensors", "w/config.json", "w/model.safetensors",
                                  "open_clip/open_clip_config.json"])  # fmt: skip
def test_damage_is_an_input_error_or_harmless(tmp_path, form):
    if form.startswith("open_clip"):
        open_clip_folder(tmp_path / "open_clip")
    else:
        path = tmp_path / form.split("/")[0]
        write_weights(path, writable(path.suffix, weights()))
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
    save_best(tmp_path / "run", recipe())
    largest = max((tmp_path / "run/best").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    with pytest.raises(InputError, match=r"best/7: the best model is damaged"):
        read_weights(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/best/7")
    with pytest.raises(InputError, match="no checkpoint in it"):
        read_weights(tmp_path / "run")

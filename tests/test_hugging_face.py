"""Ids of the Hugging Face Hub, against a cache that the library itself reads; nothing is asked of a network."""

import json
import os
import subprocess
import sys
from fnmatch import fnmatch

import hub
import huggingface_hub
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cusa_jax.config import default_config, typed
from cusa_jax.errors import InputError
from cusa_jax.experiment import build_student
from cusa_jax.hugging_face import find_model, is_id, upload
from cusa_jax.models.clip_sizes import ClipConfig
from cusa_jax.weights import torch_file
from cusa_jax.weights.formats import read_weights, write_weights
from cusa_jax.weights.hub import Weights, template

SIZES = ClipConfig(
    embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=1, text_width=64, text_layers=1,
    vocab_size=99, context_length=12,
)  # fmt: skip
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the library, which is offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "models--someone--model"


def write_clip(folder, value):
    """A CLIP whose parameters are all one number."""
    shapes = template("clip", SIZES, (), folder)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, value, np.float32), shapes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_weights(folder, Weights("clip", SIZES, variables))
    return folder


def put(cache, revision, value):
    folder = write_clip(cache / "snapshots" / COMMITS[revision], value)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / revision).write_text(COMMITS[revision])
    return folder


def number(weights):
    return float(weights.variables["params"]["text"]["projection"][0, 0])


def test_an_id_and_its_revision_are_read_from_the_cache(cache):
    put(cache, "main", 1.0)
    put(cache, "v1", 2.0)
    assert number(read_weights("someone/model")) == 1.0
    assert number(read_weights("someone/model@v1")) == 2.0
    assert number(read_weights(f"someone/model@{COMMITS['v1']}")) == 2.0


def test_weights_that_are_pickled_are_read_where_there_are_no_others(cache):
    folder = put(cache, "main", 3.0)
    torch_file.write(folder / "pytorch_model.bin", load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    assert number(read_weights("someone/model")) == 3.0


def test_a_part_in_a_folder_within_is_no_model(cache):
    folder = put(cache, "main", 3.0)
    torch_file.write(folder / "pytorch_model.bin", load_file(folder / "model.safetensors"))
    (folder / "1_Dense").mkdir()
    (folder / "model.safetensors").rename(folder / "1_Dense/model.safetensors")
    assert number(read_weights("someone/model")) == 3.0


def test_pickles_are_asked_for_only_where_there_are_no_others(tmp_path, monkeypatch):
    """What is asked of the library, whose network is a folder here."""
    asked = []

    def snapshot(name, *, revision, allow_patterns, ignore_patterns):
        files = (
            "pytorch_model-00001-of-00002.bin",
            "open_clip_pytorch_model.bin",
            "training_args.bin",
            "model.py",
        )
        wanted = [file for file in files if any(fnmatch(file, pattern) for pattern in allow_patterns)]
        asked.append((name, revision, wanted))
        return str(tmp_path)

    monkeypatch.setattr("cusa_jax.hugging_face.snapshot_download", snapshot)
    assert find_model("someone/model@v1") == tmp_path
    (tmp_path / "model.safetensors").touch()
    find_model("someone/model")
    assert asked == [
        ("someone/model", "v1", []),
        ("someone/model", "v1", ["pytorch_model-00001-of-00002.bin", "open_clip_pytorch_model.bin"]),
        ("someone/model", None, []),
    ]


def test_a_training_starts_from_an_id(cache):
    put(cache, "v1", 2.0)
    config = default_config()
    config.init_from, config.model.name, config.model.heads = "someone/model@v1", "auto", "residual"
    student, variables, _ = build_student(typed(config))
    assert student.sizes == SIZES
    assert float(variables["params"]["text"]["projection"][0, 0]) == 2.0


def test_a_model_goes_to_the_hub_and_comes_back(tmp_path):
    write_clip(tmp_path / "in", 3.0)
    with hub.serving() as (address, files):
        # The library reads where the Hub is when it is imported.
        env = os.environ | {"HF_ENDPOINT": address, "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "home")}

        def convert(*arguments):
            command = [sys.executable, "scripts/convert.py", *arguments]
            return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

        assert f"pushed to {address}/someone/model" in convert(
            tmp_path / "in", tmp_path / "out", "--push=someone/model"
        )
        assert files == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
        convert("someone/model@main", tmp_path / "back.safetensors")
    assert number(read_weights(tmp_path / "back.safetensors")) == 3.0


def test_why_a_folder_was_not_uploaded_is_told(tmp_path, monkeypatch):
    class Api:
        def create_repo(self, name, *, exist_ok):
            raise OSError("403 Forbidden\nmore")

    monkeypatch.setattr("cusa_jax.hugging_face.HfApi", Api)
    with pytest.raises(InputError, match=r"--push=a/b: .* was written, but not uploaded \(403 Forbidden\)"):
        upload(tmp_path, "a/b")


def test_a_folder_here_comes_first(cache, tmp_path):
    put(cache, "main", 1.0)
    write_clip(tmp_path / "someone/model", 4.0)
    assert number(read_weights("someone/model")) == 4.0


def test_what_is_nowhere(cache):
    with pytest.raises(InputError, match="someone/else@v2: neither a folder here nor to be had from Hugging"):
        find_model("someone/else@v2")
    with pytest.raises(InputError, match=r"runs/x\.pt: no such file or folder"):
        find_model("runs/x.pt")
    assert [is_id(x) for x in ("a/b", "a/b@c", "a", "/a/b", "./a/b", "a/b/c", "~/a")] == [
        *(True, True, False, False, False, False, False)
    ]


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_parts(tmp_path, kind):
    folder = write_clip(tmp_path / "clip", 5.0)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, stem = sorted(tensors), kind.partition(".")
    places = {}
    for part, chosen in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem[0]}-{part:05}-of-00002.{stem[2]}"
        held = {name: tensors[name] for name in chosen}
        save_file(held, folder / file) if "safe" in kind else torch_file.write(folder / file, held)
        places |= dict.fromkeys(chosen, file)
    index = folder / f"{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert number(read_weights(folder)) == 5.0
    for wrong, told in (("../x", "lists ../x, which is not beside it"), (file, f"{names[0]}, which")):
        index.write_text(json.dumps({"weight_map": places | {names[0]: wrong}}))
        with pytest.raises(InputError, match=told):
            read_weights(folder)
    (folder / file).unlink()
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(InputError, match="which is not beside it"):
        read_weights(folder)

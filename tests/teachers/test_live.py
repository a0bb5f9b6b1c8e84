"""Where a teacher comes from, and one clear line where it does not come."""

import huggingface_hub
import pytest

from cusa_jax import hugging_face
from cusa_jax.errors import InputError
from cusa_jax.teachers import folder as folder_module
from cusa_jax.teachers.live import load_image_teacher, load_text_teacher


def load_text(source):
    return load_text_teacher(str(source), max_length=64)


def load_image(source):
    return load_image_teacher(str(source))


@pytest.mark.parametrize("load", [load_text, load_image])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.npy", "no such file or folder"),
        ("missing/folder", "no such file or folder"),
        (
            "pytorch_model.bin",
            "not read.* give the folder with config.json|of UNICOM is read; otherwise give",
        ),
        ("FP16-ViT-B-32.pt", r"by itself it is not read; give the folder|\.pt: not a file of torch\.save"),
        ("notes.txt", "a live teacher is a model folder, and a feature file ends in .npz or .npy"),
        ("features.npz", "a live teacher is a model folder"),
        (
            "empty",
            r"empty/config\.json: no such file; a model folder holds config\.json and model\.safetensors",
        ),
    ],
)
def test_source_that_is_no_teacher(tmp_path, load, name, told):
    (tmp_path / "FP16-ViT-B-32.pt").touch()
    (tmp_path / "pytorch_model.bin").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "features.npz").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=told):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ('{"model_type": "gpt2"}', "model_type is 'gpt2'; (text|image) teachers are (bert|unicom), "),
        ("{}", "model_type is None"),
        ('{"model_type": ["bert"]}', r"model_type is \['bert'\]"),
        ("[1]", "must hold a JSON object"),
        ('{"model_type"', "not a readable JSON file"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("load", [load_text, load_image])
def test_config_that_is_no_teacher_s(tmp_path, load, config, told):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=rf"config\.json: .*{told}"):
        load(tmp_path)


def test_text_teacher_for_images_and_the_reverse(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mpnet"}')
    with pytest.raises(InputError, match="image teachers are unicom, vit"):
        load_image(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "unicom"}')
    with pytest.raises(
        InputError, match="text teachers are bert, roberta, xlm-roberta, mpnet, albert, distilbert"
    ):
        load_text(tmp_path)


@pytest.mark.parametrize("source", ["someone/some-model", "some-model", "not an id"])
def test_hugging_face_id_without_network(monkeypatch, tmp_path, source):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=f"{source}: neither a folder here nor .*give a local folder"
    ) as caught:
        load_text(source)
    assert "\n" not in str(caught.value)


def test_hugging_face_id_is_asked_for_data_only(monkeypatch, tmp_path):
    asked = {}

    def download(source, revision, allow_patterns, ignore_patterns):
        asked.update(source=source, revision=revision, allow_patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(hugging_face, "snapshot_download", download)
    assert folder_module.locate("someone/some-model@v1") == tmp_path
    wanted = ["*.safetensors", "*.json", "*.txt"]
    assert asked == {"source": "someone/some-model", "revision": "v1", "allow_patterns": wanted}

"""What is given away is whole: folders of transformers and open_clip, programs that JAX loads by itself."""

import json

import jax
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file

from cusa_jax.config import default_config
from cusa_jax.data.tokenize import VOCAB_SIZE, ClipTokenizer
from cusa_jax.errors import InputError
from cusa_jax.models.clip_sizes import ClipConfig
from cusa_jax.weights.formats import read_weights, write_weights
from cusa_jax.weights.hub import Weights, template

SIZES = ClipConfig(
    embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=1, text_width=64, text_layers=1,
    vision_heads=2, vision_mlp=100, mean=(0.5, 0.25, 0.125), activation="gelu", context_length=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    shapes = template("clip", SIZES, (), "here")
    return Weights("clip", SIZES, jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype("f4"), shapes))


@pytest.fixture
def folder(tmp_path, weights):
    write_weights(tmp_path / "hf", weights)
    return tmp_path / "hf"


@pytest.mark.parametrize("kind", ["", "open_clip"])
def test_folders_come_back_with_all_that_is_said_of_them(tmp_path, weights, kind):
    write_weights(tmp_path / "out", weights, kind)
    back = read_weights(tmp_path / "out")
    assert back.sizes == SIZES
    jax.tree.map(np.testing.assert_array_equal, back.variables, weights.variables)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "vocab.json", "merges.txt", "tokenizer_config.json"} <= names


def test_open_clip_finds_its_own_names(tmp_path, weights):
    write_weights(tmp_path / "out", weights, "open_clip")
    said = json.loads((tmp_path / "out/open_clip_config.json").read_text())
    assert int(said["model_cfg"]["vision_cfg"]["mlp_ratio"] * 64) == 100
    assert said["preprocess_cfg"]["resize_mode"] == "shortest"
    tensors = load_file(tmp_path / "out/open_clip_model.safetensors")
    assert tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape == (100, 64)
    assert tensors["logit_scale"].shape == ()


def test_the_model_card_says_what_is_known_and_no_paths(tmp_path, weights):
    config = default_config()
    config.init_from, config.data.path = "openai/clip-vit-base-patch32", "/home/somebody/photos"
    trained = Weights(
        "clip",
        SIZES,
        weights.variables,
        config=config,
        figures={"i2t_r1": 43.21},
        intervals={"i2t_r1": (40.0, 46.5)},
    )
    write_weights(tmp_path / "hf", trained)
    card = (tmp_path / "hf/README.md").read_text()
    assert card.startswith("---\n# license:")
    for said in (
        "| i2t_r1 | 43.21 | 40.00 to 46.50 |",
        "| start | openai/clip-vit-base-patch32 |",
        "| captions | photos |",
    ):
        assert said in card
    assert "somebody" not in card
    assert "padding=True" in card
    assert "Captions were cleaned" in card


def test_programs_are_loaded_back_and_equal(tmp_path, weights):
    pytest.importorskip("flatbuffers")
    write_weights(tmp_path / "out", weights, "stablehlo")
    student, rng = weights.student(), np.random.default_rng(1)
    rows = {
        "image": rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8),
        "text": rng.integers(1, VOCAB_SIZE, (3, 12)).astype(np.int32),
    }
    for side, given in rows.items():
        program = jax.export.deserialize(bytearray((tmp_path / f"out/{side}.stablehlo").read_bytes()))
        expected = np.asarray(student.encode_side(weights.variables, side, given)["cross"])
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(program.call(given), expected, atol=1e-6)
        np.testing.assert_allclose(program.call(given[:1]), expected[:1], atol=1e-6)
    said = json.loads((tmp_path / "out/description.json").read_text())
    assert (said["image"]["size"], said["text"]["length"], said["embed_dim"]) == (16, 12, expected.shape[1])
    card = (tmp_path / "out/README.md").read_text()
    assert "library_name: jax" in card
    assert "export.deserialize" in card
    with pytest.raises(InputError, match=r"exported programs, which only `jax\.export\.deserialize` loads"):
        read_weights(tmp_path / "out")


# --- and what comes in ----------------------------------------------------------------------------------------


def edit(path, **changes):
    said = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (said | changes).items() if value != "gone"}))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("", "use_pooler_twice", 1), ("vision_config", "num_channels", 4), ("text_config", "attention_dropout", 0.1),
     ("vision_config", "model_type", "siglip_vision_model"), ("text_config", "layer_norm_eps", 1e-6)],
)  # fmt: skip
def test_settings_of_no_clip_are_refused_by_name(folder, section, key, value):
    said = json.loads((folder / "config.json").read_text())
    (said[section] if section else said)[key] = value
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match=rf"config\.json: {section and section + '.'}{key}"):
        read_weights(folder)


def test_older_files_say_a_tower_twice(folder):
    """The library takes what text_config_dict says, with its defaults, before text_config."""
    said = json.loads((folder / "config.json").read_text())
    text = said["text_config"]
    (folder / "config.json").write_text(
        json.dumps(said | {"text_config": text | {"hidden_size": 512}, "text_config_dict": text})
    )
    assert read_weights(folder).sizes == SIZES


def test_pixels_as_newer_versions_of_the_library_save_them(folder):
    said = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    path = folder / "processor_config.json"
    path.write_text(json.dumps({"processor_class": "CLIPProcessor", "image_processor": said}))
    assert read_weights(folder).sizes.mean == SIZES.mean
    path.write_text(json.dumps({"image_processor": said | {"do_center_crop": False}}))
    with pytest.raises(InputError, match=r"processor_config\.json: do_center_crop=False"):
        read_weights(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("do_lower_case", False), ("model_max_length", 8), ("tokenizer_class", "T5Tokenizer"), ("eos_token", "</s>"),
     ("prefix", "a photo of")],
)  # fmt: skip
def test_tokenizers_that_are_not_clip_s_are_refused_by_name(folder, key, value):
    edit(folder / "tokenizer_config.json", **{key: value})
    with pytest.raises(InputError, match=rf"tokenizer_config\.json: {key}="):
        read_weights(folder)


def test_another_vocabulary_of_the_same_size_is_refused(folder):
    words = ClipTokenizer().vocabulary
    swapped = words | {"dog</w>": words["cat</w>"], "cat</w>": words["dog</w>"]}
    (folder / "vocab.json").write_text(json.dumps(swapped))
    with pytest.raises(InputError, match=r"vocab\.json: another vocabulary than CLIP's"):
        read_weights(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [("tokenizer_config.json", {"added_tokens_decoder": {"49408": {"content": "<photo>"}}}),
     ("tokenizer_config.json", {"added_tokens_decoder": {"320": {"content": "<|startoftext|>"}}}),
     ("added_tokens.json", {"<photo>": 49408})],
)  # fmt: skip
def test_tokens_that_a_folder_adds_are_refused(folder, name, said):
    (folder / name).write_text(json.dumps(said))
    with pytest.raises(InputError, match=rf"{name}: adds the token '<"):
        read_weights(folder)


def test_other_merges_are_refused(folder):
    lines = (folder / "merges.txt").read_text(encoding="utf8").split("\n")
    lines[1], lines[2] = lines[2], lines[1]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf8")
    with pytest.raises(InputError, match=r"merges\.txt: other merges than CLIP's"):
        read_weights(folder)


def test_a_tokenizer_json_gives_clip_s_ids_or_is_refused(folder):
    """As the library itself writes it, and with its normaliser, post-processor or vocabulary changed."""
    transformers.CLIPTokenizerFast.from_pretrained(folder).backend_tokenizer.save(
        str(folder / "tokenizer.json")
    )
    assert read_weights(folder).sizes == SIZES
    said = json.loads((folder / "tokenizer.json").read_text(encoding="utf8"))
    words = said["model"]["vocab"]
    others = (
        {"normalizer": None},
        {"post_processor": None},
        {
            "model": said["model"]
            | {"vocab": words | {"dog</w>": words["cat</w>"], "cat</w>": words["dog</w>"]}}
        },
        {"model": 3},
    )
    for change, told in zip(
        others, ("splits", "splits", "another vocabulary", "not a readable"), strict=True
    ):
        (folder / "tokenizer.json").write_text(json.dumps(said | change), encoding="utf8")
        with pytest.raises(InputError, match=rf"tokenizer\.json: {told}"):
            read_weights(folder)


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path, weights):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    for kind in ("", "open_clip", "stablehlo"):
        with pytest.raises(InputError, match="out: is there already, and not an empty folder"):
            write_weights(tmp_path / "out", weights, kind)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]


def test_a_folder_that_cannot_be_finished_leaves_nothing(tmp_path, weights, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cusa_jax.weights.huggingface.write_card", fail)
    with pytest.raises(OSError, match="No space"):
        write_weights(tmp_path / "out", weights)
    assert not list(tmp_path.iterdir())


def test_unknown_parts_of_an_open_clip_folder_are_refused_by_name(tmp_path, weights):
    write_weights(tmp_path / "out", weights, "open_clip")
    edit(tmp_path / "out/open_clip_config.json", tokenizer_cfg={"clean": "canonicalize"})
    with pytest.raises(InputError, match=r"open_clip_config\.json: tokenizer_cfg is not known"):
        read_weights(tmp_path / "out")

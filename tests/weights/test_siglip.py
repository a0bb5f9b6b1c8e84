"""SigLIP folders: read, written, read again; every setting honoured, ignored or refused."""

import json
import shutil

import golden
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import SiglipConfig
from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor

from cusa_jax import experiment
from cusa_jax.config import default_config, validate
from cusa_jax.data.tokenize import tokenizer
from cusa_jax.errors import InputError
from cusa_jax.models.siglip_sizes import PRESETS
from cusa_jax.weights import siglip
from cusa_jax.weights.format import Source
from cusa_jax.weights.formats import read_weights, write_weights
from cusa_jax.weights.hub import Weights
from cusa_jax.weights.siglip_config import config, preprocessing, read_sizes

FOLDER = golden.FOLDER / "siglip"


@pytest.fixture
def folder(tmp_path):
    """A copy of a model's folder that a test may damage."""
    return shutil.copytree(FOLDER / "s1", tmp_path / "s1")


def write(path, **files):
    path.mkdir(exist_ok=True)
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return Source(path)


def changed(section, **settings):
    """s1's configuration with other settings in a section, '' for the top."""
    raw = json.loads((FOLDER / "s1" / "config.json").read_text())
    (raw[section] if section else raw).update(settings)
    return raw


@pytest.mark.parametrize("case", ["s1", "s2"])
def test_a_folder_that_is_read_and_written_is_the_same(case, tmp_path):
    write_weights(tmp_path / "out", read_weights(FOLDER / case))
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "out", FOLDER / case))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, name)
        assert ours[name].dtype == tensor.dtype
    assert read_weights(tmp_path / "out").sizes == read_weights(FOLDER / case).sizes


@pytest.mark.parametrize("case", ["s1", "s2"])
def test_the_library_reads_what_is_written(case, tmp_path):
    write_weights(tmp_path / "out", read_weights(FOLDER / case))
    ours, theirs = (SiglipConfig.from_pretrained(path) for path in (tmp_path / "out", FOLDER / case))
    for section in ("text_config", "vision_config"):
        assert getattr(ours, section).to_dict() == getattr(theirs, section).to_dict() | {"dtype": None}
    processor = SiglipImageProcessor.from_pretrained(tmp_path / "out")
    size = theirs.vision_config.image_size
    assert processor.size == {"height": size, "width": size}
    assert (processor.resample, processor.do_resize, processor.do_rescale, processor.do_normalize) == (
        3,
        True,
        True,
        True,
    )
    assert processor.image_mean == processor.image_std == [0.5, 0.5, 0.5]


def test_the_tokenizer_goes_where_the_weights_go(folder, tmp_path):
    backend = Tokenizer(WordLevel({"a": 0, "dog": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    for copy in (tmp_path / "own.safetensors", tmp_path / "folder"):
        write_weights(copy, read_weights(folder))
    shutil.rmtree(folder)
    for copy in (tmp_path / "own.safetensors", tmp_path / "folder"):
        text = read_weights(copy).student().inputs.text
        ids, _ = tokenizer(text)(["a dog", "a red dog"])
        assert ids[:, :4].tolist() == [[0, 1, text.pad_id, text.pad_id], [0, 2, 1, text.pad_id]]


def test_a_folder_with_sentencepiece_alone_has_its_tokenizer(folder, tmp_path):
    """As transformers 4 writes it; the copy has a tokenizer.json, which any program reads."""
    shutil.copy(golden.FOLDER / "sentencepiece" / "unigram.model", folder / "spiece.model")
    weights = read_weights(folder)
    write_weights(tmp_path / "out", weights)
    original, copy = (
        tokenizer(read.student().inputs.text)(["a red dog runs"])
        for read in (weights, read_weights(tmp_path / "out"))
    )
    np.testing.assert_array_equal(original[0], copy[0])
    backend = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert backend.encode("A red dog runs.").tokens[:2] == ["▁a", "▁red"]


def test_our_own_file_holds_it_too(tmp_path):
    stored = read_weights(FOLDER / "s2")
    write_weights(tmp_path / "own.safetensors", stored)
    again = read_weights(tmp_path / "own.safetensors")
    assert (again.family, again.sizes, again.scalars) == (stored.family, stored.sizes, stored.scalars)
    kernel = again.variables["params"]["image"]["pool"]["in_proj"]["kernel"]
    np.testing.assert_array_equal(kernel, stored.variables["params"]["image"]["pool"]["in_proj"]["kernel"])


def test_trained_scalars_are_written_and_heads_are_refused(tmp_path):
    stored = read_weights(FOLDER / "s1")
    params = stored.variables["params"]
    scalars = {"tau_sigmoid": np.float32(0.5), "bias_sigmoid": np.float32(-2.0)}
    with pytest.raises(InputError, match=r"trained linear heads \(cross\), which this format cannot hold"):
        write_weights(
            tmp_path / "out", Weights("siglip", stored.sizes, {"params": params}, ("cross",), scalars)
        )
    assert not (tmp_path / "out").exists()
    write_weights(tmp_path / "out", Weights("siglip", stored.sizes, {"params": params}, (), scalars))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_allclose(tensors["logit_scale"], [np.log(2)], rtol=1e-6)
    np.testing.assert_array_equal(tensors["logit_bias"], np.float32([-2]))
    assert tensors.keys() == load_file(FOLDER / "s1" / "model.safetensors").keys()


def test_without_a_sigmoid_loss_its_start_is_written():
    tensors = siglip.from_scalars({"tau_contrastive": np.float32(0.07)})
    np.testing.assert_allclose(tensors["logit_scale"], [np.log(10)], rtol=1e-6)
    np.testing.assert_array_equal(tensors["logit_bias"], np.float32([-10]))


# --- config.json ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "preset"),
    [
        # As siglip-base-patch16-224 says it: the defaults are its own.
        ({"text_config": {"model_type": "siglip_text_model"}, "vision_config": {"model_type": "siglip_vision_model"}},
         "siglip_b_16_224"),
        # All that the library can say, generic settings too.
        (SiglipConfig().to_dict(), "siglip_b_16_224"),
        ({"text_config": {"vocab_size": 256000, "pad_token_id": 1}}, "siglip2_b_16_224"),
        ({"text_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                          "num_attention_heads": 16},
          "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                            "num_attention_heads": 16, "image_size": 384}}, "siglip_l_16_384"),
    ],
    ids=["defaults", "everything", "siglip2", "large"],
)  # fmt: skip
def test_released_configurations(said, preset, tmp_path):
    source = write(tmp_path / "folder", config={"model_type": "siglip", **said})
    assert read_sizes(source) == PRESETS[preset]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_its_files(preset, tmp_path):
    sizes = PRESETS[preset]
    files = {"config": config(sizes), "preprocessor_config": preprocessing(sizes)}
    assert read_sizes(write(tmp_path / "folder", **files)) == sizes


def test_both_towers_may_differ_in_everything(tmp_path):
    raw = changed(
        "text_config", hidden_act="quick_gelu", layer_norm_eps=1e-5, hidden_size=20, num_attention_heads=5
    )
    sizes = read_sizes(write(tmp_path / "folder", config=raw))
    assert (sizes.text_activation, sizes.vision_activation) == ("quick_gelu", "gelu_tanh")
    assert (sizes.text_epsilon, sizes.vision_epsilon) == (1e-5, 1e-6)
    assert (sizes.text_width, sizes.text_heads, sizes.embed_dim) == (20, 5, 32)


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        ("", {"model_type": "siglip_vision_model"}, "'siglip_vision_model' is not both towers of a SigLIP"),
        ("", {"vision_use_head": False}, "vision_use_head=False is not known here; remove it if"),
        ("vision_config", {"vision_use_head": False}, "vision_config.vision_use_head=False must be True"),
        ("vision_config", {"num_channels": 1}, "vision_config.num_channels=1 must be 3"),
        ("vision_config", {"num_patches": 256}, "vision_config.num_patches=256 is not known here"),
        ("vision_config", {"model_type": "siglip2_vision_model"}, "must be 'siglip_vision_model'"),
        ("text_config", {"attention_dropout": 0.1}, "text_config.attention_dropout=0.1 must be 0"),
        (
            "text_config",
            {"hidden_act": "relu"},
            "text_config.hidden_act is 'relu', none of gelu_pytorch_tanh",
        ),
        ("text_config", {"projection_size": 16}, "projection_size is 16, but images are embedded in .* 32"),
        ("text_config", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it must be"),
        ("text_config", {"num_attention_heads": 5}, "a tower of width 32 cannot have 5 heads"),
        ("text_config", {"layer_norm_eps": "small"}, "not the configuration of a SigLIP model"),
    ],
)
def test_other_models_are_refused_by_the_name_of_what_differs(section, settings, message, tmp_path):
    write(tmp_path / "folder", config=changed(section, **settings))
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "folder")


def test_naflex_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"siglip2 is NaFlex, .* such as google/siglip2-base-patch16-224"):
        read_weights(FOLDER / "naflex")


def test_an_activation_that_the_user_says_must_be_the_files():
    with pytest.raises(InputError, match="its activation is gelu_tanh, not quick_gelu"):
        read_weights(FOLDER / "s1", "quick_gelu")


# --- what lies beside it --------------------------------------------------------------------------------------


def test_pixels_are_the_preprocessors(folder):
    # As SigLIP 2 has them.
    said = preprocessing(PRESETS["siglip_b_16_224"]) | {"size": {"height": 32, "width": 32}, "resample": 2}
    write(folder, preprocessor_config=said | {"image_mean": [0.4, 0.5, 0.6], "do_convert_rgb": None})
    sizes = read_weights(folder).sizes
    assert (sizes.mean, sizes.std, sizes.resampling) == ((0.4, 0.5, 0.6), (0.5, 0.5, 0.5), "bilinear")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"shortest_edge": 32}}, "images are squashed to 32 x 32"),
        ({"size": {"height": 64, "width": 64}}, "images are squashed to 32 x 32"),
        ({"do_center_crop": True}, "do_center_crop=True: images are squashed"),
        ({"max_num_patches": 256}, "max_num_patches=256: images are squashed"),
        ({"resample": 4}, "resample=4: images are squashed"),
        ({"image_std": [0.5, 0.5]}, r"image_std=\[0.5, 0.5\] is not one number for each channel"),
    ],
)
def test_pixels_made_in_another_way_are_refused(settings, message, folder):
    write(folder, preprocessor_config=settings)
    with pytest.raises(InputError, match=message):
        read_weights(folder)


@pytest.mark.parametrize(
    ("tokenizer", "pad_id"),
    [
        (None, 7),
        ({"pad_token": "<pad>", "added_tokens_decoder": {"0": {"content": "<pad>"}}}, 0),
        ({"pad_token": {"content": "</s>"}, "added_tokens_decoder": {"1": {"content": "</s>"}}}, 1),
        ({"pad_token": "<pad>"}, 7),
    ],
)
def test_the_padding_token_is_the_tokenizers(tokenizer, pad_id, folder):
    write(folder, config=changed("text_config", pad_token_id=7))
    if tokenizer is not None:
        write(folder, tokenizer_config=tokenizer)
    assert read_weights(folder).sizes.pad_id == pad_id


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"do_lower_case": False}, "do_lower_case=False: texts are tokenised in lower case"),
        ({"padding_side": "left"}, "padding_side='left': texts are tokenised"),
        ({"model_max_length": 4}, "model_max_length=4: texts are tokenised"),
        ({"auto_map": {"AutoTokenizer": "x.Y"}}, "auto_map="),
        ({"add_eos_token": True, "eos_token": "dog"}, "add_eos_token=True, unlike tokenizer.json"),
        (
            {"add_bos_token": False, "bos_token": {"content": "a"}},
            "add_bos_token=False, unlike tokenizer.json",
        ),
    ],
)
def test_a_tokenizer_that_does_something_else_is_refused(settings, told, folder):
    Tokenizer(WordLevel({"a": 0, "dog": 1, "?": 2}, unk_token="?")).save(str(folder / "tokenizer.json"))
    write(folder, tokenizer_config=settings)
    with pytest.raises(InputError, match=rf"tokenizer_config\.json: {told}"):
        read_weights(folder)


def test_released_tokenizer_settings_are_read(folder):
    """The keys of google/siglip-base-patch16-224 and google/siglip2-base-patch16-224."""
    common = {
        "clean_up_tokenization_spaces": True,
        "processor_class": "SiglipProcessor",
        "sp_model_kwargs": {},
    }
    for own in (
        {"do_lower_case": True, "model_max_length": 64, "tokenizer_class": "SiglipTokenizer",
         "additional_special_tokens": [], "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>",
         "model_input_names": ["input_ids"], "added_tokens_decoder": {"1": {"content": "</s>"}}},
        {"add_bos_token": False, "add_eos_token": True, "bos_token": "<bos>", "eos_token": "<eos>",
         "pad_token": "<pad>",
         "model_max_length": 10**30, "padding_side": "right", "spaces_between_special_tokens": False,
         "tokenizer_class": "GemmaTokenizer", "use_default_system_prompt": False, "unk_token": "<unk>",
         "added_tokens_decoder": {"0": {"content": "<pad>"}}},
    ):  # fmt: skip
        write(folder, tokenizer_config=common | own)
        read_weights(folder)


def test_tensors_that_do_not_fit_are_all_named(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["logit_bias"], tensors["vision_model.head.probe"]
    tensors["text_model.encoder.layers.0.self_attn.q_proj.weight"] = np.zeros((3, 3), np.float32)
    tensors["text_model.extra"] = np.zeros(3, np.float32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError) as error:
        read_weights(folder)
    message = str(error.value)
    assert "2 missing: " in message
    assert "logit_bias" in message
    assert "vision_model.head.probe" in message
    assert "1 unexpected: text_model.extra" in message
    assert "q_proj.weight (float32 (3, 3) for float (32, 32))" in message


def test_a_training_starts_from_a_folder_with_its_tokenizer_and_scalars(folder, tmp_path):
    """Everything that a run is built of; its first batch holds what the tokenizer makes of the cleaned captions."""
    backend = Tokenizer(WordLevel({"?": 0, "<pad>": 1, "a": 2, "red": 3, "circle": 4}, unk_token="?"))
    backend.pre_tokenizer = Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    config = default_config()
    settings = {
        "init_from": str(folder), "model.name": "auto", "model.heads": "none", "loss.sigmoid.weight": 1.0,
        "loss.contrastive.weight": 0.0, "loss.csa.weight": 0.0, "loss.usa.weight": 0.0, "batch_size": 16,
        "loss.negatives": "global", "data.path": str(tmp_path / "world"), "data.world.train": 16,
        "data.world.val": 4, "data.world.test": 4,
    }  # fmt: skip
    config.update_from_flattened_dict(settings)
    run = experiment.build(validate(config))
    batch = next(run.batches)
    run.batches.close()
    stored = read_weights(folder)
    assert run.recipe.student.inputs.text.tokenizer == str(folder)
    for caption, row in zip(batch.caption_index, batch.tokens, strict=True):
        ids = backend.encode(run.splits["train"].captions[caption]).ids[: len(row)]
        assert row.tolist() == ids + [stored.sizes.pad_id] * (len(row) - len(ids))
    start = run.initial_state().params["scalars"]
    for name, value in stored.scalars.items():
        assert float(start[name]) == float(value)

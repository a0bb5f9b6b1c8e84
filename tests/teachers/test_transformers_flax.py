"""Teachers from folders in the layout of Hugging Face, on our modules and on transformers, against its Flax models."""

import json
import logging
import sys

import jax
import numpy as np
import pytest
import transformers
from huggingface_folder import SIZES, VOCABULARY, WORDS, make_folder
from safetensors.numpy import load_file, save_file

from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.teachers.live import load_image_teacher, load_text_teacher
from cusa_jax.weights import torch_file

PIXELS = {"image_size": 16, "patch_size": 4}
CAPTIONS = ["a dog runs on the beach", "Two dogs", "sleep", ""]


def load_text(folder, **options):
    return load_text_teacher(str(folder), **{"max_length": 64} | options)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_bert_pools_the_library_s_states(bert, pooling):
    if pooling == "cls":
        (bert / "1_Pooling").mkdir()
        modes = {
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
            "word_embedding_dimension": 16,
        }
        (bert / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    teacher, params = load_text(bert)
    tokens = teacher.tokenize(CAPTIONS)
    assert tokens["input_ids"].tolist()[1] == [
        2,
        VOCABULARY.index("two"),
        VOCABULARY.index("dogs"),
        3,
        0,
        0,
        0,
        0,
    ]
    assert tokens["attention_mask"].sum(1).tolist() == [8, 4, 3, 2]
    assert {array.dtype for array in tokens.values()} == {np.dtype(np.int32)}

    model = make_folder(bert, transformers.FlaxBertModel, transformers.BertConfig(**SIZES, **WORDS))
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(teacher.apply)(params, tokens)
        states = np.asarray(model(**tokens).last_hidden_state, np.float64)
    assert ours.dtype == np.float32
    for feature, text, mask in zip(ours, states, tokens["attention_mask"], strict=True):
        sentence = text[0] if pooling == "cls" else text[mask == 1].mean(0)
        np.testing.assert_allclose(feature, sentence / np.linalg.norm(sentence), atol=1e-6)


def test_roberta_saved_with_its_language_model_head(tmp_path, write_word_tokenizer):
    config = transformers.RobertaConfig(**SIZES, **WORDS, pad_token_id=1)
    model = make_folder(tmp_path, transformers.FlaxRobertaModel, config, prefix="roberta.")
    tensors = load_file(tmp_path / "model.safetensors")
    without_pooler = {key: tensor for key, tensor in tensors.items() if "pooler" not in key}
    save_file(without_pooler | {"lm_head.bias": np.zeros(20, np.float32)}, tmp_path / "model.safetensors")
    write_word_tokenizer(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "dog", "runs"])
    teacher, params = load_text(tmp_path)
    tokens = teacher.tokenize(["dog runs", "dog"])
    assert tokens["input_ids"].tolist() == [[0, 4, 5, 2], [0, 4, 2, 1]]

    states = np.asarray(model(**tokens).last_hidden_state)
    sentence = states[1, :3].mean(0)
    ours = teacher.apply(params, tokens)[1]
    np.testing.assert_allclose(ours, sentence / np.linalg.norm(sentence), atol=1e-5)
    # Positions count from pad + 1, so that 14 of them hold 12 tokens.
    assert teacher.tokenize(["dog " * 50])["input_ids"].shape == (1, 12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["vit", "clip", "dinov2"])
def test_image_features_are_the_normed_class_token(tmp_path, kind, dtype):
    if kind == "vit":
        model_class, feature = transformers.FlaxViTModel, lambda output: output.last_hidden_state[:, 0]
        config = transformers.ViTConfig(**SIZES, **PIXELS)
        preprocessing = {"size": {"height": 16, "width": 16}}
    elif kind == "dinov2":
        model_class, feature = transformers.FlaxDinov2Model, lambda output: output.last_hidden_state[:, 0]
        config = transformers.Dinov2Config(**SIZES, **PIXELS, mlp_ratio=2)
        preprocessing = {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16}}
    else:
        model_class, feature = transformers.FlaxCLIPVisionModel, lambda output: output.pooler_output
        config = transformers.CLIPVisionConfig(**SIZES, **PIXELS)
        preprocessing = {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": 16}
    model = make_folder(tmp_path, model_class, config)
    preprocessing |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    teacher, params = load_image_teacher(str(tmp_path), dtype=dtype)
    assert (teacher.inputs, teacher.image) == ("pixels", Pixels(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))

    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    ours = jax.jit(teacher.apply)(params, pixels)
    normalised = (pixels / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    theirs = feature(model(normalised.transpose(0, 3, 1, 2).astype(np.float32)))
    assert ours.dtype == np.float32
    error = np.abs(ours - theirs).max()
    assert error < 1e-5 if dtype == "float32" else 1e-4 < error < 0.1


def test_dinov2_fits_its_positions_to_the_pictures(tmp_path):
    """A position table that is constant stays so at any size; the weights of torch's kernel: test_positions.py."""
    config = transformers.Dinov2Config(**SIZES, **PIXELS, mlp_ratio=2)
    model = make_folder(tmp_path, transformers.FlaxDinov2Model, config)
    tensors = load_file(tmp_path / "model.safetensors")
    positions = tensors["embeddings.position_embeddings"]
    positions[:, 1:] = positions[:, 1:2]
    save_file(tensors, tmp_path / "model.safetensors")
    preprocessing = {"size": 24, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    teacher, params = load_image_teacher(str(tmp_path))
    assert params["positions"].shape == (1, 37, 16)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)

    flax_params = model.keywords["params"]
    flax_params["embeddings"]["position_embeddings"] = positions
    theirs = model((pixels / 127.5 - 1).transpose(0, 3, 1, 2).astype(np.float32), params=flax_params)
    np.testing.assert_allclose(teacher.apply(params, pixels), theirs.last_hidden_state[:, 0], atol=1e-4)


def test_the_common_models_need_no_transformers(bert, write_word_tokenizer, monkeypatch):
    write_word_tokenizer(bert, VOCABULARY)
    monkeypatch.setitem(sys.modules, "transformers", None)
    teacher, params = load_text(bert)
    features = teacher.apply(params, teacher.tokenize(["a dog"]))
    assert abs(np.linalg.norm(features) - 1) < 1e-5


def test_layer_norms_under_tensorflow_s_names(bert):
    """As in the first BERT's folders."""
    tensors = load_file(bert / "model.safetensors")
    _, before = load_text(bert)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        tensors = {
            key.removesuffix(new) + name if key.endswith(new) else key: tensor
            for key, tensor in tensors.items()
        }
    save_file(tensors, bert / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_text(bert)[1], before)


DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, **WORDS}


@pytest.fixture
def distilbert(tmp_path, write_word_tokenizer):
    """(folder, Flax model) of a model that is computed by transformers."""
    write_word_tokenizer(tmp_path, VOCABULARY)
    config = transformers.DistilBertConfig(**DISTILBERT)
    return tmp_path, make_folder(tmp_path, transformers.FlaxDistilBertModel, config)


def test_other_text_models_are_computed_by_transformers(distilbert, caplog):
    folder, model = distilbert
    logger = logging.getLogger("transformers")
    type(logger).warning_once.cache_clear()  # so that what is said once would be said again
    logger.addHandler(caplog.handler)
    teacher, params = load_text(folder)
    logger.removeHandler(caplog.handler)
    # Not even of the deprecation of its Flax classes.
    assert not caplog.records
    tokens = teacher.tokenize(["two dogs"])
    sentence = np.asarray(model(**tokens).last_hidden_state)[0].mean(0)
    ours = teacher.apply(params, tokens)[0]
    np.testing.assert_allclose(ours, sentence / np.linalg.norm(sentence), atol=1e-5)


def test_what_transformers_cannot_build_or_lacks(distilbert, monkeypatch):
    folder, _ = distilbert
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"n_heads": 3}))
    with pytest.raises(InputError, match=r"config\.json: transformers cannot build FlaxDistilBertModel"):
        load_text(folder)
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = load_file(folder / "model.safetensors")
    words = tensors.pop("embeddings.word_embeddings.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"1 missing: embeddings/word_embeddings/embedding$"):
        load_text(folder)
    save_file(
        tensors | {"embeddings.word_embeddings.weight": words[:-1].copy()}, folder / "model.safetensors"
    )
    with pytest.raises(InputError, match=r"1 unfit: .* \(19, 16\) for \(20, 16\)$"):
        load_text(folder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'cusa_jax\[teachers\]'"):
        load_text(folder)


# --- faults ---------------------------------------------------------------------------------------------------


def test_missing_parameters_are_not_made_up(bert):
    tensors = load_file(bert / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, bert / "model.safetensors")
    with pytest.raises(InputError, match=r"1 missing: encoder\.layer\.1\.output\.dense\.weight$"):
        load_text(bert)


def test_parameters_of_another_size_are_named(bert):
    tensors = load_file(bert / "model.safetensors")
    words = "embeddings.word_embeddings.weight"
    save_file(tensors | {words: tensors[words][:-1]}, bert / "model.safetensors")
    told = rf"1 unfit: {words} \(float32 \(19, 16\) for float \(20, 16\)\)$"
    with pytest.raises(InputError, match=told):
        load_text(bert)


def test_folder_with_pickled_weights_only(bert):
    _, before = load_text(bert)
    torch_file.write(bert / "pytorch_model.bin", load_file(bert / "model.safetensors"))
    (bert / "model.safetensors").unlink()
    jax.tree.map(np.testing.assert_array_equal, load_text(bert)[1], before)
    (bert / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: no such file, nor a list"):
        load_text(bert)


def test_config_that_describes_no_bert(bert):
    raw = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(raw | {"num_attention_heads": 3}))
    with pytest.raises(InputError, match=r"config\.json: hidden_size 16 does not divide into 3 heads"):
        load_text(bert)


@pytest.mark.parametrize("pad", ["<script>", -1, 20, 1.5, [0]])
def test_a_padding_token_that_is_none_is_named(bert, pad):
    raw = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(raw | {"pad_token_id": pad}))
    with pytest.raises(
        InputError,
        match=r"config\.json: pad_token_id = .* is not (one of the 20 tokens|a whole number from 0)",
    ):
        load_text(bert)


@pytest.mark.parametrize("layers", [10**9, 2**63])
def test_more_layers_than_weights_are_refused_before_they_are_built(bert, layers):
    raw = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(raw | {"num_hidden_layers": layers}))
    with pytest.raises(
        InputError, match=rf"num_hidden_layers = {layers} is not a whole number from 1 to 1024"
    ):
        load_text(bert)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file; it says how the image teacher normalises"),
        ({"size": 16}, "needs size, image_mean and image_std"),
        ({"size": 16, "image_mean": [0.5], "image_std": [0.5] * 3}, "three means and three positive stds"),
        (
            {"size": 16, "image_mean": [0.5] * 3, "image_std": [0.5, 0.5, 0]},
            "three means and three positive stds",
        ),
        ({"size": 12, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "has 12 pixels, the model 16"),
    ],
)
def test_preprocessing_is_never_guessed(tmp_path, content, told):
    make_folder(tmp_path, transformers.FlaxViTModel, transformers.ViTConfig(**SIZES, **PIXELS))
    if content:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"preprocessor_config\.json.*{told}"):
        load_image_teacher(str(tmp_path))

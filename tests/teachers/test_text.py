"""Tokenizing, padding and pooling of text teachers, on a tiny MPNet folder."""

import json

import jax
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.teachers import checkpoints, mpnet
from cusa_jax.teachers.live import load_text_teacher
from cusa_jax.teachers.text import pool

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "red", "circle", "above", "blue", "square"]
CONFIG = mpnet.MPNetConfig(
    vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=40, relative_attention_num_buckets=32, layer_norm_eps=1e-5, pad_token_id=1,
)  # fmt: skip
CAPTIONS = ["red circle above blue square", "blue square", "green"]


@pytest.fixture(scope="module")
def params():
    text = np.ones((1, 4), np.int32)
    shapes = jax.eval_shape(mpnet.MPNet(CONFIG).init, jax.random.key(0), text, text)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.fixture
def folder(tmp_path, params, write_word_tokenizer):
    checkpoints.save(tmp_path, CONFIG, params)
    write_word_tokenizer(tmp_path, WORDS)
    return tmp_path


def load(folder, max_length=64):
    return load_text_teacher(str(folder), max_length=max_length)


def write_json(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def test_padding_does_not_change_features(folder):
    teacher, params = load(folder)
    tokens = teacher.tokenize(CAPTIONS)
    assert tokens["input_ids"].tolist() == [
        [0, 4, 5, 6, 7, 8, 2], [0, 7, 8, 2, 1, 1, 1], [0, 3, 2, 1, 1, 1, 1],
    ]  # fmt: skip
    apply = jax.jit(teacher.apply)
    features = np.asarray(apply(params, tokens))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    assert np.abs(features[:, None] - features[None]).sum(-1)[~np.eye(3, dtype=bool)].min() > 0.05
    for extra in (1, 25):
        padding = [(0, 0), (0, extra)]
        longer = {
            "input_ids": np.pad(tokens["input_ids"], padding, constant_values=1),
            "attention_mask": np.pad(tokens["attention_mask"], padding),
        }
        np.testing.assert_allclose(apply(params, longer), features, atol=1e-6)
    alone = apply(params, teacher.tokenize(CAPTIONS[2:]))
    np.testing.assert_allclose(alone, features[2:], atol=1e-6)


@pytest.mark.parametrize(
    ("max_length", "folder_s", "kept"), [(5, None, 5), (64, 6, 6), (5, 6, 5), (64, None, 38)]
)
def test_the_smallest_limit_cuts_the_words_not_the_end_token(folder, max_length, folder_s, kept):
    if folder_s:
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": folder_s})
    teacher, params = load(folder, max_length)
    tokens = teacher.tokenize(["red " * 100])
    assert tokens["input_ids"].tolist() == [[0] + [4] * (kept - 2) + [2]]
    assert np.isfinite(jax.jit(teacher.apply)(params, tokens)).all()  # no position past the last


def test_cls_pooling_and_mean_pooling():
    states = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    mask = np.array([[1, 1, 0], [0, 0, 0]], np.int32)
    mean, cls = (np.asarray(pool(states, mask, pooling)) for pooling in ("mean", "cls"))
    expected = (states[0, 0] + states[0, 1]) / 2
    np.testing.assert_allclose(mean[0], expected / np.linalg.norm(expected), rtol=1e-6)
    np.testing.assert_array_equal(mean[1], 0)  # a text without tokens is like no other, and no NaN
    np.testing.assert_allclose(
        cls, states[:, 0] / np.linalg.norm(states[:, 0], axis=1, keepdims=True), rtol=1e-6
    )


def test_sentence_transformers_files_are_heeded(folder):
    modules = [
        {"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", "Normalize")
    ]
    write_json(folder / "modules.json", modules)
    pooling = folder / "1_Pooling" / "config.json"
    write_json(pooling, {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False})
    mean, params = load(folder)
    write_json(pooling, {"pooling_mode_cls_token": True})
    cls, _ = load(folder)
    tokens = mean.tokenize(CAPTIONS)
    features = [np.asarray(jax.jit(teacher.apply)(params, tokens)) for teacher in (mean, cls)]
    assert np.abs(features[0] - features[1]).max() > 0.01


@pytest.mark.parametrize(
    ("file", "value", "told"),
    [
        (
            "modules.json",
            [{"type": "sentence_transformers.models.Dense"}],
            r"modules\.json: has a module Dense",
        ),
        ("modules.json", {"type": "x"}, r"modules\.json: must hold a list"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools by pooling_mode_max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, "pools by nothing"),
        ("1_Pooling/config.json", [], r"1_Pooling/config\.json: must hold a JSON object"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "limit of 2 tokens leaves no room"),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "many"},
            r"sentence_bert_config\.json: max_seq_length = 'many'",
        ),
        ("tokenizer.json", {"version": "9"}, r"tokenizer\.json: the tokenizer is missing or cannot be read"),
    ],
)
def test_bad_file_is_named(folder, file, value, told):
    write_json(folder / file, value)
    with pytest.raises(InputError, match=told) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_missing_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json: the tokenizer is missing") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_tokenizer_of_another_model(folder, write_word_tokenizer):
    write_word_tokenizer(folder, [*WORDS, "triangle"])
    with pytest.raises(InputError, match=r"knows 10 tokens, the model only 9"):
        load(folder)

"""The smallest tokenizer a text teacher can have, and a training split of 21 images and 105 captions."""

import json

import pytest

from cusa_jax.data import world
from cusa_jax.data.splits import load_split
from cusa_jax.data.tokenize import VOCAB_SIZE
from cusa_jax.inputs import Inputs, Pixels, Text


@pytest.fixture(scope="session")
def world_train(tmp_path_factory):
    folder = world.write(tmp_path_factory.mktemp("world") / "world", {"train": 21, "val": 1, "test": 1})
    return load_split(str(folder), "train", Inputs(Pixels(32), Text(77, VOCAB_SIZE)), image_root="")


@pytest.fixture
def bert(tmp_path):
    """The folder of a tiny BERT with a WordPiece vocabulary."""
    # Imported here because transformers takes seconds.
    import huggingface_folder

    huggingface_folder.make_bert(tmp_path)
    return tmp_path


@pytest.fixture
def write_word_tokenizer():
    """(folder, words): a lone tokenizer.json with one token a word.

    words: the vocabulary in order of ids. Texts stand between the first and the third; the fourth is unknown.
    """
    return _write_word_tokenizer


def _write_word_tokenizer(folder, words):
    first, last = words[0], words[2]
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (first, last)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special[0], {"Sequence": {"id": "A", "type_id": 0}}, special[1]],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                name: {"id": name, "ids": [words.index(name)], "tokens": [name]} for name in (first, last)
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}, "unk_token": words[3]},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))

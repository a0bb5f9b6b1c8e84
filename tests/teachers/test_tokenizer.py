"""Reading a folder's tokenizer: which of its files count, and that its own code never runs."""

import io
import json
import os
import sys

import pytest
from tokenizers import Tokenizer, models, normalizers

from cusa_jax.errors import InputError
from cusa_jax.teachers.live import load_text_teacher
from cusa_jax.teachers.tokenizer import read_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "red", "circle"]


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that the code of `write_code` makes when it is imported, while every question is answered with yes."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 1000))
    return tmp_path / "canary"


def write_code(folder, canary):
    (folder / "own_code.py").write_text(
        f"open({str(canary)!r}, 'w').close()\n"
        "from transformers import BertTokenizerFast, BertConfig, FlaxBertModel\n"
        "class Own(BertTokenizerFast): pass\n"
        "class OwnConfig(BertConfig): pass\n"
        "class OwnModel(FlaxBertModel): pass\n"
    )


def write_config(folder, **values):
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


CODE = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own_code.Own", "own_code.Own"]}}


def test_a_folder_that_brings_code_and_no_tokenizer_json_is_refused(tmp_path, canary):
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL))
    write_code(tmp_path, canary)
    write_config(tmp_path, **CODE)
    with pytest.raises(
        InputError, match=r"tokenizer_config\.json: auto_map asks for code .* never run; save"
    ) as caught:
        read_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    assert not canary.exists()


def test_the_canary_sings(tmp_path, canary):
    """What is refused here does run when transformers is asked as it was before."""
    from transformers import AutoTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL))
    write_code(tmp_path, canary)
    write_config(tmp_path, **CODE)
    AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    assert canary.exists()


def test_a_tokenizer_json_is_read_without_the_code_beside_it(tmp_path, canary, write_word_tokenizer):
    write_word_tokenizer(tmp_path, WORDS)
    write_code(tmp_path, canary)
    write_config(tmp_path, **CODE)
    assert read_tokenizer(tmp_path).encode("red circle green").ids == [0, 4, 5, 3, 2]
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["AutoConfig", "AutoModel", "FlaxAutoModel", "AutoTokenizer"])
def test_code_that_config_json_names_is_not_run(bert, canary, kind):
    write_code(bert, canary)
    config = json.loads((bert / "config.json").read_text())
    code = {"AutoConfig": "own_code.OwnConfig", "AutoTokenizer": ["own_code.Own", "own_code.Own"]}
    config["auto_map"] = {kind: code.get(kind, "own_code.OwnModel")}
    (bert / "config.json").write_text(json.dumps(config))
    os.remove(bert / "tokenizer_config.json")
    teacher, _ = load_text_teacher(str(bert), max_length=64)
    assert teacher.tokenize(["dog"])["input_ids"].tolist() == [[2, 6, 3]]
    assert not canary.exists()


def test_a_vocabulary_without_an_unknown_token_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "dog"]))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    write_config(tmp_path, tokenizer_class="BertTokenizer")
    with pytest.raises(InputError, match=r"has no token for words that it does not know .*needs") as caught:
        read_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        models.WordPiece({"dog": 0}, unk_token="[UNK]"),
        models.WordLevel({"dog": 0}, unk_token="[UNK]"),
        models.Unigram([("dog", -1.0)]),
    ],
)
def test_a_tokenizer_json_without_an_unknown_token_is_refused(tmp_path, model):
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="has no token for words that it does not know"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(("says", "lowercase", "refused"), [
    (True, True, False), (False, False, False), (True, False, True), (False, True, True), (None, True, False),
])  # fmt: skip
def test_two_files_that_disagree_about_lower_case_are_refused(tmp_path, says, lowercase, refused):
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "dog": 1}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write_config(tmp_path, do_lower_case=says)
    if refused:
        with pytest.raises(InputError, match=r"do_lower_case is (true|false), and tokenizer"):
            read_tokenizer(tmp_path)
    else:
        assert read_tokenizer(tmp_path).encode("Dog").ids == [1 if lowercase else 0]

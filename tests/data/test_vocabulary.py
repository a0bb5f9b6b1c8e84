"""Words and vocabularies against NLTK's tokens and the vocabularies of SGRAF's own code."""

import json
import re

import golden
import numpy as np
import pytest

from cusa_jax.data import vocabulary
from cusa_jax.data.words import words
from cusa_jax.errors import InputError

RECORDED = golden.numbers("sgraf/vocab_e2e")
CAPTIONS = RECORDED["captions"]


def built(threshold):
    # Its dev captions are the first ten again, and count, too.
    return vocabulary.build([*CAPTIONS, *CAPTIONS[:10]], threshold)


@pytest.mark.parametrize(("caption", "tokens"), list(zip(CAPTIONS, RECORDED["tokens"], strict=True)))
def test_words_of_captions_are_those_of_nltk(caption, tokens):
    assert vocabulary.caption_words(caption) == tokens


@pytest.mark.parametrize("case", RECORDED["nasty"], ids=lambda case: repr(case["text"]))
def test_words_of_odd_captions_are_those_of_nltk_without_its_sentence_model(case):
    assert vocabulary.caption_words(case["text"]) == case["tokens_no_sentence_split"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it's the dogs' ball, isn't it?", "it 's the dogs ' ball , is n't it ?"),
        (
            '"wait!" (he said...) at 10:30, for $3,000.',
            "`` wait ! '' ( he said ... ) at 10:30 , for $ 3,000 .",
        ),
        ("a so-called 'top' -- gimme more'n one", "a so-called ' top ' -- gim me more 'n one"),
        ("'tis “fine” – really", "' tis “ fine ” – really"),
        ('the end.")', "the end . '' )"),
        ("i've got 2.5 lbs. of it", "i 've got 2.5 lbs. of it"),
    ],
)
def test_rules(text, expected):
    assert " ".join(words(text)) == expected


@pytest.mark.parametrize("threshold", [1, 4])
def test_vocabulary_and_ids_are_those_of_the_original(threshold):
    recorded, ours = RECORDED["vocab"][f"threshold_{threshold}"], built(threshold)
    assert list(ours.words) == recorded["words"]
    assert [ours.encode(caption) for caption in CAPTIONS] == recorded["caption_ids"]
    if threshold == 1:
        for case in RECORDED["nasty"]:
            # Without the sentence model one caption keeps a full stop at a word.
            if case["tokens"] == case["tokens_no_sentence_split"]:
                assert ours.encode(case["text"]) == case["ids_threshold_1"]


def test_tokenize_fills_up_and_cuts():
    recorded, ours = RECORDED["collate"], built(4)
    rows, cut = ours.tokenize([CAPTIONS[n] for n in recorded["order_after_collate"]], 17)
    assert rows.tolist() == recorded["targets"]
    assert (rows.dtype, cut) == (np.int32, 0)
    rows, cut = ours.tokenize(["a horse on a horse", "a horse"], 4)
    assert rows.tolist() == [[1, 4, ours.ids["horse"], 2], [1, 4, ours.ids["horse"], 2]]
    assert cut == 1


def test_file_is_the_originals_and_comes_back(tmp_path):
    file, ours = tmp_path / "vocab.json", built(1)
    vocabulary.write(file, ours)
    content = json.loads(file.read_text())
    assert content["word2idx"] == {word: number for number, word in enumerate(ours.words)}
    assert content["idx2word"] == {str(number): word for number, word in enumerate(ours.words)}
    assert content["idx"] == len(ours)
    assert vocabulary.read(file) == ours


def content(**changed):
    ids = {word: number for number, word in enumerate((*vocabulary.SPECIAL, "dog"))}
    return {"word2idx": ids, "idx2word": {str(n): w for w, n in ids.items()}, "idx": 5} | changed


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not a readable JSON"),
        ("[]", "not an object"),
        ("{}", "word2idx"),
        (json.dumps(content(word2idx={"dog": 0})), "first words"),
        (json.dumps(content(word2idx={"<pad>": 0, "dog": 0})), "each once"),
        (json.dumps(content(word2idx={"<pad>": "x"})), "no whole number"),
        (json.dumps(content(idx2word={"0": "dog"})), "tables differ"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_vocabulary_is_refused_in_one_line(tmp_path, text, complaint):
    file = tmp_path / "vocab.json"
    file.write_text(text)
    with pytest.raises(InputError, match=complaint) as error:
        vocabulary.read(file)
    assert re.match(rf"{file}: [^\n]*$", str(error.value))

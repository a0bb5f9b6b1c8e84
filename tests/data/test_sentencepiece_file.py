"""SigLIP's spiece.model against the ids that the sentencepiece library 0.2.3 gave, texts made canonical by Python.

The models were trained by it on sentences of forty words; its own rules of normalisation are a few of NFKC's.
"""

import shutil
from pathlib import Path

import golden
import pytest

from cusa_jax.data import tokenizer_file
from cusa_jax.errors import InputError
from cusa_jax.inputs import Text

FOLDER = golden.FOLDER / "sentencepiece"
TEXT = Text(length=20, vocab_size=56, pad_id=0, tokenizer="", may_cut=False)


@pytest.fixture
def spiece(tmp_path):
    return Path(shutil.copy(FOLDER / "unigram.model", tmp_path / "spiece.model"))


@pytest.mark.parametrize(("text", "ids"), golden.numbers("sentencepiece/unigram"))
def test_ids_are_those_of_sentencepiece(text, ids, spiece):
    ((row,), cut) = tokenizer_file.from_file(str(spiece.parent), TEXT)([text])
    assert row.tolist() == ids + [0] * (20 - len(ids))
    assert not cut


def test_a_tokenizer_json_beside_it_is_read_first(spiece):
    (spiece.parent / "tokenizer.json").write_text("{}")
    assert tokenizer_file.in_folder(spiece.parent).name == "tokenizer.json"


def test_every_damage_is_one_line(spiece):
    """Cut anywhere, or with any one byte changed: read or refused, nothing else."""
    whole = spiece.read_bytes()
    damaged = [whole[:end] for end in range(0, len(whole), 7)]
    damaged += [
        whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
        for at in range(0, len(whole), 5)
        for flip in (1, 128)
    ]
    refusals = []
    for held in damaged:
        spiece.write_bytes(held)
        try:
            tokenizer_file.content(str(spiece))
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    for refusal in refusals:
        assert refusal.startswith(f"{spiece}: not a SentencePiece model of SigLIP's kind")
        assert len(refusal.splitlines()) == 1


def test_a_damaged_normalisation_is_refused_at_the_first_text(spiece):
    """The library looks at it no sooner, and panics."""
    held = bytearray(spiece.read_bytes())
    # in the table of characters, where "ﬁ" is followed
    held[902] ^= 1
    spiece.write_bytes(held)
    tokenize = tokenizer_file.from_file(str(spiece), TEXT)
    with pytest.raises(InputError, match="a damaged tokenizer, at which the library fails"):
        tokenize(["ﬁsh"])


def test_another_kind_of_model_is_refused_by_name(spiece):
    shutil.copy(FOLDER / "bpe.model", spiece)
    with pytest.raises(
        InputError, match=r"model_type 2 is not unigram\); save its tokenizer\.json beside it"
    ):
        tokenizer_file.content(str(spiece))

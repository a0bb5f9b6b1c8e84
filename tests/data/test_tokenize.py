"""CLIP tokens against goldens of the reference and against transformers' own tokenizer."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTokenizer

from cusa_jax.data import vocabulary
from cusa_jax.data.captions import clean_caption
from cusa_jax.data.tokenize import (
    TOKENIZERS,
    ClipTokenizer,
    _read_merges,
    fitted,
    text_length_bucket,
    text_lengths,
    tokenizer,
    tokenizer_identity,
)
from cusa_jax.errors import InputError
from cusa_jax.inputs import Text

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "tokenizer.json").read_text())


@pytest.fixture(scope="module")
def clip():
    return ClipTokenizer()


def padded(ids, length):
    return ids + [0] * (length - len(ids))


def test_captions_match_the_reference(clip):
    texts = [clean for _, _, _, clean, _ in GOLDEN["captions"]]
    ids, truncated = clip(texts)
    assert ids.dtype == np.int32
    assert truncated == 0
    np.testing.assert_array_equal(ids, [padded(golden, 77) for *_, golden in GOLDEN["captions"]])


@pytest.mark.parametrize("case", GOLDEN["nasty"], ids=lambda case: ascii(case["raw"][:24]))
@pytest.mark.parametrize(
    ("kind", "context_length"),
    [("ids_of_pre", 77), ("ids_of_raw", 77), ("ids_of_raw_truncate", 77), ("ids_of_raw_ctx16_truncate", 16)],
)
def test_nasty_strings_match_the_reference(clip, case, kind, context_length):
    text = clean_caption(case["raw"]) if kind == "ids_of_pre" else case["raw"]
    ids, truncated = clip([text], context_length)
    golden = case[kind]
    if golden is None:  # the reference stops at a caption that is empty after cleaning; it stays raw here
        golden = case["ids_of_raw"]
    if "error" in golden:  # the reference stops at a text that is too long; it is cut and counted here
        assert "too long" in golden["error"]
        assert truncated == 1
        assert ids[0, -1] == clip.eot
    else:
        np.testing.assert_array_equal(ids[0], padded(golden["ids"], context_length))


def test_texts_that_are_too_long_are_cut_and_counted(clip):
    words = ["dog"] * 80
    fits, exactly, over = " ".join(words[:14]), " ".join(words[:15]), " ".join(words)
    ids, truncated = clip([fits, exactly, over, "dog"], 16)
    dog = clip.encode("dog")
    assert truncated == 2
    np.testing.assert_array_equal(ids[:3], [[49406, *dog * 14, 49407]] * 3)
    np.testing.assert_array_equal(ids[3], padded([49406, *dog, 49407], 16))


def test_special_tokens_count_only_where_they_stand_alone(clip):
    # The reference's pattern finds '!<|' before it would find the special token.
    assert clip.encode("a<|endoftext|>b") == [*clip.encode("a"), 49407, *clip.encode("b")]
    apart = [token for word in ("!<|", "endoftext", "|>") for token in clip.encode(word)]
    assert clip.encode("!<|endoftext|>") == apart
    assert 49407 not in apart


@pytest.fixture(scope="module")
def transformers_tokenizer(tmp_path_factory):
    """transformers' pure-Python CLIP tokenizer on the same merge table, its vocabulary built by its own rule."""
    merges = _read_merges()
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    alphabet = [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]
    vocabulary = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(vocabulary)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def test_unicode_soup_matches_transformers(clip, transformers_tokenizer):
    rng = random.Random(0)
    letters = "abcdefgXYZ 0123 '''.,!?-_ sS tT re ve ll éßøñ ſKÅİ½²Ⅷ 一二犬 كلب हिन्दी 🙂🇺🇸 \u200b\u00a0\u3000\t\n´`“”"
    for _ in range(500):
        text = "".join(rng.choices(letters, k=rng.randint(1, 40)))
        assert clip.encode(text) == transformers_tokenizer.encode(text, add_special_tokens=False), ascii(text)


def test_length_is_that_of_the_text_even_if_it_contains_token_zero():
    ids = np.array([[49406, 5, 49407, 0, 0], [49406, 0, 0, 49407, 0], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(text_lengths(ids), [3, 4, 5])


@pytest.mark.parametrize(
    ("longest", "bucket"), [(3, 16), (16, 16), (17, 24), (33, 48), (65, 77), (77, 77), (90, 128), (129, 192)]
)
def test_bucket_holds_the_longest(longest, bucket):
    assert text_length_bucket(np.array([2, longest, 3])) == bucket


@pytest.fixture
def words(tmp_path):
    """(folder, its tokenizer as the library alone uses it): a word is a token, sentences end in </s>, as T5's do."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "dog": 4, "cat": 5, "red": 99_999}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    # What the file says of length and padding is the file's; the model's own is what counts.
    backend.enable_padding(length=3)
    backend.enable_truncation(2)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.py", null]}}')
    (tmp_path / "evil.py").write_text("raise SystemExit('this was run')")
    return tmp_path


@pytest.mark.parametrize("file", ["", "tokenizer.json"])
@pytest.mark.parametrize("pad_id", [0, 1])
def test_a_tokenizer_json_is_all_that_is_read(words, file, pad_id):
    text = Text(5, 100_000, tokenizer=str(words / file), pad_id=pad_id, may_cut=False)
    ids, cut = tokenizer(text)(["A dog", "a red CAT", "", "a cat a dog", "dog " * 9])
    assert (ids.dtype, cut) == (np.int32, 1)
    expected = [[3, 4, 1], [3, 99_999, 5, 1], [1], [3, 5, 3, 4, 1], [4, 4, 4, 4, 1]]
    np.testing.assert_array_equal(ids, [row + [pad_id] * (5 - len(row)) for row in expected])


def test_the_table_s_clip_is_clip(clip):
    captions = [clean for _, _, _, clean, _ in GOLDEN["captions"]][:50]
    ids, cut = tokenizer(Text(77, 49408))(captions)
    np.testing.assert_array_equal(ids, clip(captions)[0])
    assert cut == 0
    short, cut = tokenizer(Text(8, 49408, pad_id=49407))(captions)
    assert short.shape == (50, 8)
    assert cut == sum(len(clip.encode(text)) > 6 for text in captions)
    np.testing.assert_array_equal(short[0], (clip(captions[:1], 8)[0][0]))


def test_a_tokenizer_of_one_s_own_is_one_entry(monkeypatch):
    letters = {letter: n for n, letter in enumerate("_abc")}

    def spelled(text):
        return lambda texts: (
            np.array([[letters[c] for c in t.ljust(text.length, "_")] for t in texts], np.int32),
            0,
        )

    monkeypatch.setitem(TOKENIZERS, "letters", spelled)
    np.testing.assert_array_equal(tokenizer(Text(4, 4, tokenizer="letters"))(["cab"])[0], [[3, 1, 2, 0]])
    assert tokenizer_identity(Text(4, 4, tokenizer="letters")) == "letters"


def test_a_vocabulary_that_is_too_small_is_refused(words):
    text = Text(5, 50, tokenizer=str(words), may_cut=False)
    assert tokenizer(text)(["a dog"])[0].max() == 4
    with pytest.raises(InputError, match=r"knows a token 99999, but the model's vocabulary ends at 49"):
        tokenizer(text)(["a red dog"])
    for count in (256, 60_000):
        with pytest.raises(InputError, match=f"the model has {count} token ids, CLIP's tokenizer 49408"):
            tokenizer(Text(77, count))


def test_what_is_no_tokenizer_is_named(words, tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such tokenizer; it is a tokenizer\.json"):
        tokenizer(Text(5, 9, tokenizer=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="texts of 1 tokens leave no room for words"):
        tokenizer(Text(1, 9, tokenizer=str(words)))
    with pytest.raises(InputError, match="texts end in the token 1, which is the padding too"):
        tokenizer(Text(5, 9, tokenizer=str(words), pad_id=1))(["a dog"])
    identity = tokenizer_identity(Text(5, 9, tokenizer=str(words)))
    (words / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a readable tokenizer") as raised:
        tokenizer(Text(5, 9, tokenizer=str(words)))
    assert "\n" not in str(raised.value)
    assert tokenizer_identity(Text(5, 9, tokenizer=str(words))) != identity


def test_a_vocabulary_of_words_is_a_tokenizer(tmp_path):
    file = tmp_path / "vocab.json"
    vocabulary.write(file, vocabulary.Vocabulary((*vocabulary.SPECIAL, "a", "red", "dog")))
    ids, cut = tokenizer(Text(5, 7, tokenizer=str(file)))(["A red dog!", "a cat"])
    np.testing.assert_array_equal(ids, [[1, 4, 5, 6, 2], [1, 4, 3, 2, 0]])
    assert cut == 1
    with pytest.raises(InputError, match="knows a token 6, but the model's vocabulary ends at 5"):
        tokenizer(Text(5, 6, tokenizer=str(file)))(["a dog"])
    with pytest.raises(InputError, match=r"no tokenizer of its own: set config\.model\.tokenizer"):
        tokenizer(Text(5, 7, tokenizer=""))(["a dog"])


def test_rows_are_as_wide_as_the_model_needs_them():
    ids = np.full((2, 40), 7, np.int32)
    ids[:, 20:] = 3
    assert fitted(ids, Text(40, 99, pad_id=3)).shape == (2, 24)
    assert fitted(ids, Text(22, 99, pad_id=3)).shape == (2, 22)
    assert fitted(ids, Text(40, 99)).shape == (2, 40)  # nothing is padding
    whole = fitted(ids[:, :24], Text(40, 99, pad_id=3, may_cut=False))
    np.testing.assert_array_equal(whole, ids)

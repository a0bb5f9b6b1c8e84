"""CLIP tokens against goldens of the reference and against transformers' own tokenizer."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from cusa_jax.data.captions import clean_caption
from cusa_jax.data.tokenize import ClipTokenizer, _read_merges, text_length_bucket, text_lengths

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "tokenizer.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return ClipTokenizer()


def padded(ids, length):
    return ids + [0] * (length - len(ids))


def test_captions_match_the_reference(tokenizer):
    texts = [clean for _, _, _, clean, _ in GOLDEN["captions"]]
    ids, truncated = tokenizer(texts)
    assert ids.dtype == np.int32
    assert truncated == 0
    np.testing.assert_array_equal(ids, [padded(golden, 77) for *_, golden in GOLDEN["captions"]])


@pytest.mark.parametrize("case", GOLDEN["nasty"], ids=lambda case: ascii(case["raw"][:24]))
@pytest.mark.parametrize(
    ("kind", "context_length"),
    [("ids_of_pre", 77), ("ids_of_raw", 77), ("ids_of_raw_truncate", 77), ("ids_of_raw_ctx16_truncate", 16)],
)
def test_nasty_strings_match_the_reference(tokenizer, case, kind, context_length):
    text = clean_caption(case["raw"]) if kind == "ids_of_pre" else case["raw"]
    ids, truncated = tokenizer([text], context_length)
    golden = case[kind]
    if golden is None:  # the reference stops at a caption that is empty after cleaning; it stays raw here
        golden = case["ids_of_raw"]
    if "error" in golden:  # the reference stops at a text that is too long; it is cut and counted here
        assert "too long" in golden["error"]
        assert truncated == 1
        assert ids[0, -1] == tokenizer.eot
    else:
        np.testing.assert_array_equal(ids[0], padded(golden["ids"], context_length))


def test_texts_that_are_too_long_are_cut_and_counted(tokenizer):
    words = ["dog"] * 80
    fits, exactly, over = " ".join(words[:14]), " ".join(words[:15]), " ".join(words)
    ids, truncated = tokenizer([fits, exactly, over, "dog"], 16)
    dog = tokenizer.encode("dog")
    assert truncated == 2
    np.testing.assert_array_equal(ids[:3], [[49406, *dog * 14, 49407]] * 3)
    np.testing.assert_array_equal(ids[3], padded([49406, *dog, 49407], 16))


def test_special_tokens_count_only_where_they_stand_alone(tokenizer):
    # The reference's pattern finds '!<|' before it would find the special token.
    assert tokenizer.encode("a<|endoftext|>b") == [*tokenizer.encode("a"), 49407, *tokenizer.encode("b")]
    apart = [token for word in ("!<|", "endoftext", "|>") for token in tokenizer.encode(word)]
    assert tokenizer.encode("!<|endoftext|>") == apart
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


def test_unicode_soup_matches_transformers(tokenizer, transformers_tokenizer):
    rng = random.Random(0)
    letters = "abcdefgXYZ 0123 '''.,!?-_ sS tT re ve ll éßøñ ſKÅİ½²Ⅷ 一二犬 كلب हिन्दी 🙂🇺🇸 \u200b\u00a0\u3000\t\n´`“”"
    for _ in range(500):
        text = "".join(rng.choices(letters, k=rng.randint(1, 40)))
        assert tokenizer.encode(text) == transformers_tokenizer.encode(text, add_special_tokens=False), ascii(
            text
        )


def test_length_is_that_of_the_text_even_if_it_contains_token_zero():
    ids = np.array([[49406, 5, 49407, 0, 0], [49406, 0, 0, 49407, 0], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(text_lengths(ids), [3, 4, 5])


@pytest.mark.parametrize(
    ("longest", "bucket"), [(3, 16), (16, 16), (17, 24), (33, 48), (65, 77), (77, 77), (90, 128), (129, 192)]
)
def test_bucket_holds_the_longest(longest, bucket):
    assert text_length_bucket(np.array([2, longest, 3])) == bucket

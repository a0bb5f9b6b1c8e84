"""Captions to token ids: CLIP's, exactly (reference clip/simple_tokenizer.py and clip/clip.py:205), and the table of
tokenizers; those that come with weights are in tokenizer_file.py.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import html
import re
from collections.abc import Callable, Iterator
from importlib import resources

import ftfy
import numpy as np
from tokenizers import Regex, models, pre_tokenizers

from cusa_jax.data import tokenizer_file
from cusa_jax.data.tokenizer_file import Tokenizer
from cusa_jax.errors import InputError
from cusa_jax.inputs import Text

CONTEXT_LENGTH = 77
LENGTH_BUCKETS = (16, 24, 32, 48, 64, 77)
VOCAB_SIZE = 49408
_MERGES = (
    VOCAB_SIZE - 2 * 256 - 2
)  # bytes, bytes at a word's end, two special tokens; the table itself is longer
_WORD = r"(?i)<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Texts to token ids: ftfy, HTML unescaping and lower-casing, then byte-level BPE.

    sot, eot: ids of the start- and end-of-text tokens, the last two of the vocabulary.
    vocabulary: {token: id}, the special ones included. merges: pairs of tokens, the first merged first.
    """

    def __init__(self) -> None:
        self.merges = merges = _read_merges()
        # CLIP numbers the bytes by the code point that stands for them.
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *map("".join, merges)]
        vocabulary = {token: number for number, token in enumerate(tokens)}
        self.sot, self.eot = len(tokens), len(tokens) + 1
        self.vocab_size = len(tokens) + 2
        self._special = {"<|startoftext|>": self.sot, "<|endoftext|>": self.eot}
        self.vocabulary = vocabulary | self._special
        self._bpe = models.BPE(vocabulary, merges, end_of_word_suffix="</w>")
        self._words = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORD), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._encode_chunk = functools.lru_cache(maxsize=1 << 18)(self._encode_chunk_uncached)

    def __call__(
        self, texts: list[str], context_length: int = CONTEXT_LENGTH, pad_id: int = 0
    ) -> tuple[np.ndarray, int]:
        """Token ids, int32 [N, context_length], and how many texts were too long and had to be cut.

        A row is <sot> text <eot>, filled up with pad_id; a text that is cut still ends in <eot>.
        """
        ids = np.full((len(texts), context_length), pad_id, np.int32)
        truncated = 0
        for row, text in zip(ids, texts, strict=True):
            tokens = [self.sot, *self.encode(text), self.eot]
            if len(tokens) > context_length:
                truncated += 1
                tokens[context_length - 1 :] = [self.eot]
            row[: len(tokens)] = tokens
        return ids, truncated

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, of any length, without <sot> and <eot>.

        As in the reference, "<|startoftext|>" and "<|endoftext|>" written in a text become those tokens.
        """
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
        # No word spans white space, so the chunks between it can be encoded, and remembered, one by one.
        chunks = re.sub(r"\s+", " ", text).strip().lower().split(" ")
        return [token for chunk in chunks for token in self._encode_chunk(chunk)]

    def _encode_chunk_uncached(self, chunk: str) -> tuple[int, ...]:
        ids: list[int] = []
        for word, _ in self._words.pre_tokenize_str(chunk):
            special = self._special.get(word)
            ids += [token.id for token in self._bpe.tokenize(word)] if special is None else [special]
        return tuple(ids)


def clip(text: Text) -> Tokenizer:
    """CLIP's tokenizer. Raises InputError for a model whose token ids are others."""
    if text.vocab_size != VOCAB_SIZE:
        raise InputError(
            f"the model has {text.vocab_size} token ids, CLIP's tokenizer {VOCAB_SIZE}: it was trained with another "
            "tokenizer, whose ids mean other words; take a model with CLIP's"
        )
    return functools.partial(ClipTokenizer(), context_length=text.length, pad_id=text.pad_id)


TOKENIZERS: dict[str, Callable[[Text], Tokenizer]] = {"clip": clip}


def tokenizer(text: Text) -> Tokenizer:
    """The tokenizer that a model's texts need.

    Raises InputError where there is no such tokenizer, and at a text with an id that the model has no row for.
    """
    make = TOKENIZERS.get(text.tokenizer)
    tokenize = make(text) if make else tokenizer_file.from_file(text.tokenizer, text)

    def checked(texts: list[str]) -> tuple[np.ndarray, int]:
        ids, cut = tokenize(texts)
        if ids.size and (largest := int(ids.max())) >= text.vocab_size:
            raise InputError(
                f"the tokenizer '{text.tokenizer}' knows a token {largest}, but the model's vocabulary ends at "
                f"{text.vocab_size - 1}: they do not belong together"
            )
        return ids, cut

    return checked


def tokenizer_identity(text: Text) -> str:
    """What tells tokenizers apart: a name in `TOKENIZERS`, or the checksum of the file."""
    if text.tokenizer in TOKENIZERS:
        return text.tokenizer
    held = tokenizer_file.content(text.tokenizer)
    return f"{tokenizer_file.FILE} {hashlib.sha256(held).hexdigest()[:16]}"


def fitted(ids: np.ndarray, text: Text) -> np.ndarray:
    """Rows as wide as the model needs them: `text.length`, or where its texts may be cut, as the longest of them."""
    width = text.length
    if text.may_cut:
        width = min(text_length_bucket(text_lengths(ids, text.pad_id)), text.length)
    missing = max(0, width - ids.shape[1])
    return np.pad(ids[:, :width], ((0, 0), (0, missing)), constant_values=text.pad_id)


def text_lengths(ids: np.ndarray, pad_id: int = 0) -> np.ndarray:
    """Lengths of rows [N, L] (ids, or a mask) without their padding, int32 [N]. In a text, pad_id may occur."""
    return (ids.shape[1] - np.argmax(ids[:, ::-1] != pad_id, axis=1)).astype(np.int32)


def text_length_bucket(lengths: np.ndarray, buckets: tuple[int, ...] = LENGTH_BUCKETS) -> int:
    """The smallest bucket that holds the longest text; beyond the buckets, a multiple of the last but one.

    Few distinct lengths mean few compilations. Cutting padding changes no feature: it comes after <eot>, and
    the text tower is causal.
    """
    longest = int(np.max(lengths))
    return next((bucket for bucket in buckets if bucket >= longest), -(-longest // buckets[-2]) * buckets[-2])


def by_length(lengths: np.ndarray, batch_size: int, first: int = 0) -> Iterator[tuple[np.ndarray, int]]:
    """(numbers int [b <= batch_size] of texts, the bucket of their length), the longest texts first.

    Little padding, few shapes to compile, and what a batch needs of memory is known at once. first: how many texts
    to leave out.
    """
    order = np.argsort(-lengths, kind="stable")
    for start in range(first, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield rows, text_length_bucket(lengths[rows])


def _read_merges() -> list[tuple[str, str]]:
    table = resources.files("cusa_jax") / "assets" / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(table.read_bytes()).decode("utf-8").split("\n")
    pairs = (line.split() for line in lines[1 : 1 + _MERGES])  # the first line is a version comment
    return [(first, second) for first, second in pairs]

"""SentencePiece's files (`spiece.model`), as SigLIP's folders of transformers 4 have them, made into tokenizer.json.

Facts of the format: sentencepiece_model.proto of github.com/google/sentencepiece. Facts of the texts: big_vision, and
transformers' SiglipTokenizer: lower case, no punctuation, single spaces, and the end of the text.
"""

from __future__ import annotations

import string
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from cusa_jax.errors import InputError, one_line

FILE = "spiece.model"
END = "</s>"
_SPACE = "▁"
# ModelProto's fields, and those of its parts.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _CHARSMAP = 3, 2
_UNIGRAM, _UNKNOWN, _TYPES = (
    1,
    2,
    (1, 2, 3, 5),
)  # normal, unknown, control, unused; not user-defined, not bytes


def as_tokenizer_json(held: bytes, file: Path) -> bytes:
    """The bytes of a tokenizer.json with the same pieces. Raises InputError for what is none, or of another kind."""
    try:
        return _tokenizer(held).to_str().encode()
    except Exception as error:  # the library raises bare Exception
        raise InputError(
            f"{file}: not a SentencePiece model of SigLIP's kind ({one_line(str(error))[:200]}); save its "
            "tokenizer.json beside it"
        ) from error


def _tokenizer(held: bytes) -> Tokenizer:
    vocabulary: list[tuple[str, float]] = []
    unknown, charsmap = None, b""
    for field, value in _fields(held):
        if field == _PIECES:
            piece = dict(_fields(value))
            kind = piece.get(_TYPE, 1)
            if kind not in _TYPES:
                raise ValueError(f"pieces of type {kind}")
            if kind == _UNKNOWN:
                unknown = len(vocabulary)
            vocabulary.append((piece[_PIECE].decode(), struct.unpack("<f", piece.get(_SCORE, bytes(4)))[0]))
        elif field == _TRAINER and (kind := dict(_fields(value)).get(_MODEL_TYPE, _UNIGRAM)) != _UNIGRAM:
            raise ValueError(f"model_type {kind} is not unigram")
        elif field == _NORMALIZER:
            charsmap = dict(_fields(value)).get(_CHARSMAP, b"")
    ends = [number for number, (piece, _) in enumerate(vocabulary) if piece == END]
    if unknown is None or not ends:
        raise ValueError(f"no piece for the unknown, or no {END}")
    tokenizer = Tokenizer(models.Unigram(vocabulary, unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(_canonical(charsmap))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, ends[0])]
    )
    return tokenizer


def _canonical(charsmap: bytes) -> list[normalizers.Normalizer]:
    punctuation = "".join(f"\\{sign}" for sign in string.punctuation)
    steps = [normalizers.Lowercase(), normalizers.Replace(Regex(f"[{punctuation}]"), "")]
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    return [*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]


def _fields(held: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message of protocol buffers: an int of a varint, else the bytes. Raises ValueError."""
    at = 0
    while at < len(held):
        tag, at = _varint(held, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(held, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(held, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of wire type {kind}")
        if at + size > len(held):
            raise ValueError("it is cut off")
        yield tag >> 3, held[at : at + size]
        at += size


def _varint(held: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(held):
            raise ValueError("it is cut off")
        byte = held[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")

"""Tokenizers that come with weights, as a file, in a folder, or within a .safetensors of ours.

A tokenizer.json is read by the `tokenizers` library alone: nothing that lies beside it is read, least of all run. A
spiece.model is made into one. The other kind is a vocabulary of words.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer as Backend

from cusa_jax.data import sentencepiece_file, vocabulary
from cusa_jax.errors import InputError, one_line
from cusa_jax.inputs import Text

# Texts -> (ids int32 [N, text.length], filled up with text.pad_id; how many texts were too long and had to be cut).
Tokenizer: TypeAlias = Callable[[list[str]], tuple[np.ndarray, int]]

FILE = "tokenizer.json"
TENSOR = "tokenizer"  # by which a .safetensors holds the bytes of such a file


def find(source: str) -> Path:
    """The file that holds a tokenizer. source: that file, or its folder. Raises InputError where there is none."""
    if not source:
        raise InputError(
            "the model has no tokenizer of its own: set config.model.tokenizer to the tokenizer.json, or the "
            "vocabulary of words, that its weights were trained with"
        )
    path = Path(source).expanduser()
    file = (in_folder(path) or path / FILE) if os.path.isdir(path) else path
    if not os.path.isfile(file):
        raise InputError(
            f"{file}: no such tokenizer; it is a tokenizer.json or its folder, or a vocabulary of words"
        )
    return file


def in_folder(folder: Path) -> Path | None:
    """The tokenizer.json, or else the spiece.model, of a model's folder."""
    files = (folder / name for name in (FILE, sentencepiece_file.FILE))
    return next((file for file in files if os.path.isfile(file)), None)


def content(source: str) -> bytes:
    """The bytes of a tokenizer.json or vocabulary, also from within a .safetensors. Errors: `find`."""
    file = find(source)
    try:
        held = _tensor(file) if file.suffix == ".safetensors" else file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    is_sentencepiece = file.name == sentencepiece_file.FILE
    return sentencepiece_file.as_tokenizer_json(held, file) if is_sentencepiece else held


def from_file(source: str, text: Text) -> Tokenizer:
    """The tokenizer at `source`, for a model with these texts. Raises InputError for what is none."""
    file, held = find(source), content(source)
    if (known := _vocabulary(held, file)) is not None:
        return lambda texts: known.tokenize(texts, text.length)
    return _subwords(held, file, text)


def words(source: str) -> int:
    """How many words the vocabulary at `source` has; 0 where none is named, or it is a tokenizer.json.

    Raises InputError for what is neither.
    """
    if not source:
        return 0
    known = _vocabulary(content(source), find(source))
    return 0 if known is None else len(known)


def check_words(source: str, sizes: Any, where: str) -> None:
    """Raises InputError where the vocabulary at `source` is not that of the weights at `where`, by its number."""
    count = words(source)
    if count and count != getattr(sizes, "vocab_size", count):
        raise InputError(
            f"{source}: a vocabulary of {count} words, but {where} was trained with one of {sizes.vocab_size}; name "
            "the one that it was trained with"
        )


@functools.lru_cache(maxsize=2)
def _vocabulary(held: bytes, file: Path) -> vocabulary.Vocabulary | None:
    """The words in a file of them, None of a tokenizer.json; both are asked for by sizes and by tokens, parsed once.

    Raises InputError for what is neither.
    """
    try:
        parsed = json.loads(held)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not a readable tokenizer ({one_line(str(error))})") from error
    is_vocabulary = isinstance(parsed, dict) and "word2idx" in parsed
    return vocabulary.parse(parsed, file) if is_vocabulary else None


def _tensor(file: Path) -> bytes:
    try:
        with safe_open(file, "numpy") as tensors:
            return tensors.get_tensor(TENSOR).astype(np.uint8).tobytes()
    except SafetensorError as error:
        raise InputError(f"{file}: holds no tokenizer ({one_line(str(error))})") from error


def _subwords(held: bytes, source: Path, text: Text) -> Tokenizer:
    """What a tokenizer.json describes; its post-processor sets the special tokens, also in a cut text."""
    try:
        backend = Backend.from_buffer(held)
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{source}: not a readable tokenizer ({' '.join(str(error).split())})") from error
    if text.length <= backend.num_special_tokens_to_add(is_pair=False):
        raise InputError(f"{source}: texts of {text.length} tokens leave no room for words")
    backend.no_padding()
    backend.enable_truncation(text.length)

    def tokenize(texts: list[str]) -> tuple[np.ndarray, int]:
        try:
            encodings = backend.encode_batch(texts)
        except BaseException as error:  # a panic of the library is no Exception
            if type(error).__name__ != "PanicException":
                raise
            raise InputError(
                f"{source}: a damaged tokenizer, at which the library fails; get it again"
            ) from error
        ids = np.full((len(texts), text.length), text.pad_id, np.int32)
        for row, encoding in zip(ids, encodings, strict=True):
            row[: len(encoding.ids)] = encoding.ids
            if text.may_cut and encoding.ids[-1:] == [text.pad_id]:
                raise InputError(
                    f"{source}: texts end in the token {text.pad_id}, which is the padding too: without padding, their "
                    "end would be lost"
                )
        return ids, sum(bool(encoding.overflowing) for encoding in encodings)

    return tokenize

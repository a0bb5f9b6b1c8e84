"""Vocabularies of whole words, as SCAN and SGRAF keep them: {coco,f30k}_precomp_vocab.json, in and out.

The file holds {"word2idx": {word: id}, "idx2word": {"id": word}, "idx": their number}. A caption becomes <start>, its
words, <end>; words that are not in the vocabulary become <unk>.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.data.words import words
from cusa_jax.errors import InputError, one_line
from cusa_jax.files import written_whole
from cusa_jax.jsonfile import read_json

PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
THRESHOLD = 4  # a word of SGRAF's vocabularies is in the captions at least so often


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """words: by id, the special ones first."""

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def encode(self, caption: str) -> list[int]:
        """Ids of a caption as it was written, of any length, <start> and <end> included."""
        return [START, *(self.ids.get(word, UNKNOWN) for word in caption_words(caption)), END]

    def tokenize(self, captions: list[str], length: int) -> tuple[np.ndarray, int]:
        """Ids int32 [N, length], filled up with <pad>, and how many captions were too long and had to be cut.

        One that is cut still ends in <end>.
        """
        rows, cut = np.full((len(captions), length), PAD, np.int32), 0
        for row, caption in zip(rows, captions, strict=True):
            ids = self.encode(caption)
            if len(ids) > length:
                cut += 1
                ids[length - 1 :] = [END]
            row[: len(ids)] = ids
        return rows, cut


def caption_words(caption: str) -> list[str]:
    """What of a caption is looked up: words in lower case, as far as they are ASCII.

    The original lowers bytes, so that other capitals stay: "É" is another word than "é".
    """
    return words(caption.encode(errors="replace").strip().lower().decode())


def build(captions: Iterable[str], threshold: int = THRESHOLD) -> Vocabulary:
    """The words that are in the captions at least `threshold` times, by first appearance.

    The original counts training and dev captions alike.
    """
    counts = collections.Counter(word for caption in captions for word in caption_words(caption))
    common = [word for word, count in counts.items() if count >= threshold]
    return Vocabulary((*SPECIAL, *(word for word in common if word not in SPECIAL)))


def read(file: Path) -> Vocabulary:
    """Raises InputError for what is no vocabulary: ids that are not 0, 1, …, or differ between its two tables."""
    return parse(read_json(file, "a vocabulary of SCAN or SGRAF is one"), file)


def parse(content: Mapping[str, Any], where: Path | str) -> Vocabulary:
    """The vocabulary that a file's JSON is. Errors: `read`."""
    try:
        return _vocabulary(content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: not a vocabulary of SCAN or SGRAF: {one_line(str(error))}") from error


def _vocabulary(content: Mapping[str, Any]) -> Vocabulary:
    ids = content["word2idx"]
    if not all(type(number) is int for number in ids.values()):
        raise ValueError("an id is no whole number")
    by_id = tuple(sorted(ids, key=ids.__getitem__))
    if sorted(ids.values()) != list(range(len(by_id))):
        raise ValueError("its ids are not 0, 1, 2, …, each once")
    if by_id[: len(SPECIAL)] != SPECIAL:
        raise ValueError(f"its first words are not {', '.join(SPECIAL)}")
    if content["idx2word"] != {str(number): word for number, word in enumerate(by_id)}:
        raise ValueError("its two tables differ")
    return Vocabulary(by_id)


def write(file: Path, vocabulary: Vocabulary) -> None:
    """What the original's `deserialize_vocab` reads; whole or not at all."""
    content = {
        "word2idx": vocabulary.ids,
        "idx2word": {str(number): word for number, word in enumerate(vocabulary.words)},
        "idx": len(vocabulary),
    }
    with written_whole(file) as fresh:
        fresh.write_text(json.dumps(content))

"""A dataset's captions as one table, whatever file they come from, and their cleaning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from absl import logging

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.layouts import Layout, Row, find_captions, read_rows
from cusa_jax.errors import InputError

MAX_WORDS = 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(",.'!?\"()*#:;~-/", " "))


def read_captions(path: str | Path, split: str, *, image_root: str | Path = "") -> CaptionTable:
    """Read one split of a dataset, in the order of the file.

    Args:
      path: a file of one of `LAYOUTS`, or a folder that holds one under a name that its layout looks for.
        A file in a one-split layout is read as it is; `split` then only serves messages.
      split: 'train', 'val' or 'test'; Karpathy's 'train' is train and restval together.
      image_root: folder the image paths are relative to; the file's own folder if empty.

    Raises:
      InputError: file or split missing or empty, file broken, a row of no known layout, an image id with two paths,
        an image with two ids, a caption id given twice, or text that is none.
    """
    return read_table(find_captions(Path(path), split), split, image_root)[0]


def read_table(file: Path, split: str, image_root: str | Path = "") -> tuple[CaptionTable, Layout]:
    """As `read_captions`, of a file, with its layout."""
    layout, rows = read_rows(file, split, Path(image_root or file.parent).resolve())
    return _table(file, split, rows), layout


def clean_caption(text: str) -> str:
    """The reference's caption cleaning (its dataset/utils.py:4): lower case, punctuation to spaces, 64 words.

    A caption of nothing but punctuation is kept as written (stripped), where the reference raises.
    """
    return _cleaned(text) or text.strip()


def clean_captions(captions: list[str]) -> list[str]:
    """`clean_caption` of each; says once how many had nothing left and were kept as written."""
    cleaned = [_cleaned(caption) for caption in captions]
    if empty := cleaned.count(""):
        logging.warning("%d of %d captions are empty after cleaning; kept as written", empty, len(captions))
    return [clean or raw.strip() for clean, raw in zip(cleaned, captions, strict=True)]


def _cleaned(text: str) -> str:
    text = text.lower().translate(_PUNCTUATION_TO_SPACE).replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:MAX_WORDS])


def _table(file: Path, split: str, rows: Iterable[Row]) -> CaptionTable:
    image_number: dict[str, int] = {}
    image_paths: list[Path] = []
    captions: list[str] = []
    caption_image: list[int] = []
    row_of_id: dict[int, str] = {}
    for row in rows:
        _check_text(file, row)
        number = image_number.setdefault(row.image_id, len(image_paths))
        if number == len(image_paths):
            image_paths.append(row.image_path)
        elif image_paths[number] != row.image_path:
            raise InputError(
                f"{file}: {row.where}: image_id '{row.image_id}' has two paths, "
                f"{image_paths[number]} and {row.image_path}"
            )
        if row.caption_id is not None:
            if row.caption_id in row_of_id:
                first = row_of_id[row.caption_id]
                raise InputError(
                    f"{file}: {row.where}: caption_id {row.caption_id} is already that of {first}"
                )
            row_of_id[row.caption_id] = row.where
        captions.append(row.caption)
        caption_image.append(number)
    if not captions:
        raise InputError(f"{file}: no captions of split '{split}'")
    _check_one_id_an_image(file, list(image_number), image_paths)
    return CaptionTable(
        image_ids=list(image_number),
        image_paths=image_paths,
        captions=captions,
        caption_image=np.array(caption_image, np.int32),
        caption_ids=np.array(list(row_of_id), np.int64) if len(row_of_id) == len(captions) else None,
    )


def _check_text(file: Path, row: Row) -> None:
    """Raises InputError for what is no text, and for ids and paths that would garble a terminal."""
    texts = {
        "the caption": row.caption,
        "the image's id": row.image_id,
        "the image's path": str(row.image_path),
    }
    for name, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{file}: {row.where}: {name} is not valid Unicode ({error.reason})") from error
        if name != "the caption" and _CONTROL.search(text):
            raise InputError(f"{file}: {row.where}: {name} has control characters in it, {text!r}")


def _check_one_id_an_image(file: Path, image_ids: list[str], image_paths: list[Path]) -> None:
    """Raises InputError where ids are those of captions, say: each caption's own image would count as wrong for the
    other captions of the same image."""
    first: dict[Path, str] = {}
    again = [
        (first[path], id_, path)
        for id_, path in zip(image_ids, image_paths, strict=True)
        if first.setdefault(path, id_) != id_
    ]
    if again:
        one, other, path = again[0]
        raise InputError(
            f"{file}: several ids for the same image, {len(image_ids)} for {len(first)} files (such as '{one}' and "
            f"'{other}' for {path}): give all captions of an image the same image_id"
        )

"""The reference's rows and ALBEF's: a JSON list, a row for each caption (ALBEF's evaluation files: for each image).

{"image_path", "caption", "image_id"}, or ALBEF's {"image", "caption", "image_id"}, in whose validation and test files
the caption is a list and there is no image_id: there the image path is the id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row, caption_id, field
from cusa_jax.errors import InputError


def read(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    return rows(file.path, file.json, root) if isinstance(file.json, list) else None


def rows(file: Path, data: list[Any], root: Path) -> Iterator[Row]:
    for number, row in enumerate(data):
        where = f"row {number}"
        path_key = "image" if isinstance(row, dict) and "image_path" not in row else "image_path"
        path = field(file, where, row, path_key, str)
        captions = field(file, where, row, "caption", str, list)
        # Only ALBEF's rows may do without an id.
        image_id = path if path_key == "image" and "image_id" not in row else None
        image_id = image_id or str(field(file, where, row, "image_id", str, int))
        if isinstance(captions, str):
            yield Row(where, image_id, root / path, captions, caption_id(file, where, row, "caption_id"))
        elif captions and all(isinstance(caption, str) for caption in captions):
            yield from (Row(where, image_id, root / path, caption, None) for caption in captions)
        else:
            raise InputError(f"{file}: {where}: 'caption' must be a string or a list of at least one string")


REFERENCE = Layout(
    holds="a list of rows with 'image_path' (or 'image') and 'caption'",
    names=lambda split: (f"new_{split}.json", f"{split}.json"),
    read=read,
)
# Told apart by its name alone: rows of both kinds are read in either file.
ALBEF = Layout(holds=REFERENCE.holds, names=lambda split: (f"*_{split}.json",), read=read)

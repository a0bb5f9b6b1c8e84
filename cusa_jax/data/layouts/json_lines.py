"""JSON Lines: an object on each line, with the columns of columns.py; a caption may be a list of them.

A folder of images with its metadata.jsonl ({"file_name", "text"}, Hugging Face's imagefolder) is one, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cusa_jax.data.layouts.columns import columns, folders, row
from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row
from cusa_jax.errors import InputError
from cusa_jax.jsonfile import parse_json


def read(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    return _rows(file.path, split, root) if file.path.suffix.lower() in (".jsonl", ".ndjson") else None


def _rows(file: Path, split: str, root: Path) -> Iterator[Row]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield from _row(file, f"line {number}", line, split, root)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error


def _row(file: Path, where: str, line: bytes, split: str, root: Path) -> Iterator[Row]:
    fields = parse_json(line, f"{file}: {where}", "mend that line")
    if not isinstance(fields, dict):
        raise InputError(f"{file}: {where}: expected an object with named fields")
    named = columns(f"{file}: {where}", fields)
    values = {key: fields[name] for key, name in named.items() if fields[name] is not None or key == "split"}
    captions = values.pop("caption", None)
    for caption in captions if isinstance(captions, list) else [captions]:
        texts = {key: _text(file, where, named[key], value) for key, value in values.items()}
        texts["caption"] = _text(file, where, named["caption"], caption)
        if "image" not in texts:
            raise InputError(f"{file}: {where}: '{named['image']}' is null")
        if (one := row(file, where, texts, named, split, root)) is not None:
            yield one


def _text(file: Path, where: str, name: str, value: Any) -> str:
    """Ids may be numbers."""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise InputError(f"{file}: {where}: '{name}' must be a text, not {str(value)[:40]}")


LAYOUT = Layout(
    holds="JSON Lines (.jsonl) with 'image' and 'caption'",
    names=lambda split: (
        *(f"{split}.jsonl", "captions.jsonl", "metadata.jsonl"),
        *(f"{folder}/metadata.jsonl" for folder in folders(split)),
    ),
    read=read,
)

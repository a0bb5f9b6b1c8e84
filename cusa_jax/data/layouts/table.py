"""Tables: CSV or TSV with a header, a row for each caption.

image (or image_path, file_name, filepath)  the path of the image's file
caption (or text, title)                    what it shows
image_id, caption_id                        optional: ids; without the first, the path is the image's id
split                                       optional: train, val or test, where one file holds all of them

UTF-8, with or without a BOM; fields that hold a separator, a line break or a quotation mark are quoted, as every
spreadsheet program writes them. Other columns are left alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row, caption_id
from cusa_jax.errors import InputError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_IMAGE = ("image", "image_path", "file_name", "filepath")
_CAPTION = ("caption", "text", "title")
_SPLITS = {
    "train": "train",
    "restval": "train",
    "val": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
_OPTIONAL = ("image_id", "caption_id", "split")


def read(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    separator = _SEPARATORS.get(file.path.suffix.lower())
    return _rows(file.path, separator, split, root) if separator else None


def _rows(file: Path, separator: str, split: str, root: Path) -> Iterator[Row]:
    lines = _lines(file, separator)
    _, header = next(lines, (1, []))
    columns = _columns(file, header)
    for line, cells in lines:
        where = f"line {line}"
        if len(cells) != len(header):
            raise InputError(
                f"{file}: {where}: {len(cells)} fields, but the header names {len(header)}; "
                "put quotation marks around a field that holds the separator"
            )
        row = {name: cells[column] for name, column in columns.items()}
        if "split" in row and _split(file, where, row["split"]) != split:
            continue
        for key in ("image", "image_id"):
            if key in row and not row[key]:
                raise InputError(f"{file}: {where}: '{header[columns[key]]}' is empty")
        image_id, number = row.get("image_id", row["image"]), caption_id(file, where, row, "caption_id")
        yield Row(where, image_id, root / row["image"], row["caption"], number)


def _split(file: Path, where: str, name: str) -> str:
    if name not in _SPLITS:
        raise InputError(f"{file}: {where}: split {name!r} is none of {', '.join(_SPLITS)}")
    return _SPLITS[name]


def _lines(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(the line on which it begins, its fields) of every row that is not blank."""
    begins = 1
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter=separator, strict=True)
            for cells in reader:
                if any("\0" in cell for cell in cells):
                    raise InputError(f"{file}: line {begins}: holds a NUL character; save the file as UTF-8")
                if cells:
                    yield begins, cells
                begins = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: not UTF-8 after line {begins - 1} ({error.reason}); save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise InputError(
            f"{file}: line {begins}: {error}; is a quotation mark missing, or not doubled?"
        ) from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error


def _columns(file: Path, header: Sequence[str]) -> dict[str, int]:
    """{'image', 'caption' and the optional ones that are there: their columns}."""
    names = [name.strip().lower() for name in header]
    columns = {}
    for key, candidates in {
        "image": _IMAGE,
        "caption": _CAPTION,
        **{key: (key,) for key in _OPTIONAL},
    }.items():
        named = [name for name in candidates if name in names]
        if named:
            columns[key] = names.index(named[0])
            if names.count(named[0]) > 1:
                raise InputError(f"{file}: the header names '{named[0]}' twice")
        elif key not in _OPTIONAL:
            wanted = f"'{candidates[0]}' (or {', '.join(candidates[1:])})"
            raise InputError(
                f"{file}: the header has no {wanted}; its columns are {', '.join(names) or 'none'}"
            )
    return columns


LAYOUT = Layout(
    holds="a table (.csv, .tsv) with columns 'image' and 'caption'",
    names=lambda split: (f"{split}.csv", f"{split}.tsv", "captions.csv", "captions.tsv"),
    read=read,
)

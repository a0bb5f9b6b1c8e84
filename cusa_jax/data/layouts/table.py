"""Tables: CSV or TSV with a header, a row for each caption; their columns are in columns.py.

UTF-8, with or without a BOM; fields that hold a separator, a line break or a quotation mark are quoted, as every
spreadsheet program writes them. Other columns are left alone. A folder of images with its metadata.csv is one, too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from cusa_jax.data.layouts.columns import columns, folders, row
from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row
from cusa_jax.errors import InputError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    separator = _SEPARATORS.get(file.path.suffix.lower())
    return _rows(file.path, separator, split, root) if separator else None


def _rows(file: Path, separator: str, split: str, root: Path) -> Iterator[Row]:
    lines = _lines(file, separator)
    _, header = next(lines, (1, []))
    names = [name.strip().lower() for name in header]
    named = columns(f"{file}: the header", names)
    if twice := [name for name in named.values() if names.count(name) > 1]:
        raise InputError(f"{file}: the header names '{twice[0]}' twice")
    for line, cells in lines:
        where = f"line {line}"
        if len(cells) != len(header):
            raise InputError(
                f"{file}: {where}: {len(cells)} fields, but the header names {len(header)}; "
                "put quotation marks around a field that holds the separator"
            )
        values = {key: cells[names.index(name)] for key, name in named.items()}
        if (caption := row(file, where, values, named, split, root)) is not None:
            yield caption


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


LAYOUT = Layout(
    holds="a table (.csv, .tsv) with columns 'image' and 'caption'",
    names=lambda split: (
        *(f"{split}.csv", f"{split}.tsv", "captions.csv", "captions.tsv"),
        *(f"{folder}/metadata.csv" for folder in folders(split)),
    ),
    read=read,
)

"""What a layout is: one way in which the captions and the images of a split can lie on a disk."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.sources import ImageFiles, ImageSource
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs
from cusa_jax.jsonfile import read_captions_json


class Row(NamedTuple):
    """One caption and its image.

    where: "row 7" or "images[7]", for messages. image_path: of the image's file; an image that lies within another
    file (an archive, a table) is named as if that were a folder.
    """

    where: str
    image_id: str
    image_path: Path
    caption: str
    caption_id: int | None


@dataclasses.dataclass(frozen=True)
class CaptionFile:
    """A file of captions. It is parsed once, however many layouts look at it."""

    path: Path

    @functools.cached_property
    def json(self) -> Any:
        """Its content; None where its name does not end in .json. Raises InputError where it is broken."""
        return read_captions_json(self.path) if self.path.suffix.lower() == ".json" else None


def open_image_files(
    file: Path, split: str, table: CaptionTable, inputs: Inputs
) -> tuple[ImageSource, np.ndarray | None]:
    """Images in files of their own, and no token ids: what most layouts have."""
    return ImageFiles(table.image_paths), None


@dataclasses.dataclass(frozen=True)
class Layout:
    """An entry of `LAYOUTS`, each a function or two.

    holds: what its files hold, for messages: 'a list of rows with …'.
    names: split -> patterns of file names, by which a folder is searched, the likelier first.
    read: (file, split, root) -> one row per caption of the split, in the order of the file, or None where the file
        is of another layout. root: what image paths are relative to. Raises InputError, at once or while it goes,
        for a file of this layout that is not what it must be.
    opens: (file, split, table of the rows, inputs) -> the images, and token ids int32 [N, L] if they are stored too.
        Raises InputError where the model's inputs cannot be had.
    hint: (folder, split) -> what to tell where a folder holds no captions of the split but looks like this layout.
    """

    holds: str
    names: Callable[[str], Sequence[str]]
    read: Callable[[CaptionFile, str, Path], Iterator[Row] | None]
    opens: Callable[[Path, str, CaptionTable, Inputs], tuple[ImageSource, np.ndarray | None]] = (
        open_image_files
    )
    hint: Callable[[Path, str], str] = lambda folder, split: ""


def field(file: Path, where: str, row: Any, key: str, *types: type) -> Any:
    """row[key], of one of the types. Raises InputError naming file, row and key."""
    if not isinstance(row, dict):
        raise InputError(f"{file}: {where}: expected an object with named fields, found {type(row).__name__}")
    if key not in row:
        have = ", ".join(map(str, row)) or "nothing"
        raise InputError(f"{file}: {where}: key '{key}' is missing (the row has {have})")
    if not isinstance(row[key], types) or isinstance(row[key], bool):
        expected = " or ".join(type_.__name__ for type_ in types)
        raise InputError(f"{file}: {where}: '{key}' must be {expected}, not {type(row[key]).__name__}")
    return row[key]


def caption_id(file: Path, where: str, row: dict[str, Any], key: str) -> int | None:
    """row[key] as a number; None where the row has none. Raises InputError for what is no number."""
    if key not in row:
        return None
    # 18 digits always fit int64
    if not re.fullmatch(r"-?\d{1,18}", str(row[key])):
        raise InputError(f"{file}: {where}: '{key}' must be an integer, not {row[key]!r}")
    return int(row[key])

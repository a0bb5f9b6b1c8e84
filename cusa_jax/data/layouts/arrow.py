"""Collections of Hugging Face `datasets`: a folder that it saved (Arrow), or the Parquet files of its Hub.

A row holds the columns of columns.py, whose image is the bytes of its file ({"bytes", "path"}, or bytes alone) or the
path of one; a caption may be a list of captions. Rows of one image have the same image_id, or the same path.

    {split}/data-00000-of-00002.arrow …            Dataset(Dict).save_to_disk
    data/{split}-00000-of-00002.parquet …          as the Hub has it; also {split}.parquet

Arrow's rows are read where they lie. Parquet decodes a group of rows for each image that is asked for: prepare such a
collection (scripts/prepare.py) before a long training.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.images import decode_image
from cusa_jax.data.layouts.columns import columns, folders, row
from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row, open_image_files
from cusa_jax.data.sources import ImageSource, as_pixels
from cusa_jax.errors import InputError, needs
from cusa_jax.inputs import ImageInputs, Inputs

_ENDS = ("-00000-of-*.parquet", ".parquet")
_SHARD = re.compile(r"(?P<before>.*-)\d+(?P<after>-of-\d+\.(?:arrow|parquet))")


@dataclasses.dataclass(frozen=True)
class ArrowImages:
    """Image n is the one in row places[n], (file, row). names: for messages."""

    names: Sequence[str]
    places: Sequence[tuple[Path, int]]
    as_shown: bool = False

    def __len__(self) -> int:
        return len(self.places)

    def read(self, image: int, *specs: ImageInputs) -> list[np.ndarray]:
        return as_pixels(self.picture(image), self.names[image], specs)

    def picture(self, image: int) -> Image.Image:
        file, number = self.places[image]
        try:
            content = _content(_open_file(file).image(number))
        except Exception as error:  # Arrow raises what a damaged file leads to
            raise InputError(f"{self.names[image]}: cannot be read ({error})") from error
        return decode_image(content, self.names[image], self.as_shown)


class _File:
    """A file of either kind. texts: rows without the images' bytes."""

    def __init__(self, file: Path) -> None:
        with needs("arrow"):
            import pyarrow
        self.file, self.pyarrow = file, pyarrow
        self.named = columns(str(file), self.schema.names)
        kind = self.schema.field(self.named["image"]).type
        self.by_path = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
        self.in_struct = pyarrow.types.is_struct(kind)

    @property
    def schema(self) -> Any:
        raise NotImplementedError

    def texts(self) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def image(self, number: int) -> Any:
        raise NotImplementedError


class _Arrow(_File):
    @functools.cached_property
    def table(self) -> Any:
        with needs("arrow"):
            from pyarrow import ipc, memory_map
        # The pages of the file, not a copy.
        return ipc.open_stream(memory_map(str(self.file))).read_all()

    @property
    def schema(self) -> Any:
        return self.table.schema

    def texts(self) -> Iterator[dict[str, Any]]:
        names = [name for key, name in self.named.items() if key != "image" or self.by_path]
        for batch in self.table.to_batches():
            rows = batch.select(names).to_pylist()
            if self.in_struct:
                paths = _paths(batch.column(self.named["image"]))
                rows = [one | {self.named["image"]: path} for one, path in zip(rows, paths, strict=True)]
            yield from rows

    def image(self, number: int) -> Any:
        return self.table.column(self.named["image"])[number].as_py()


class _Parquet(_File):
    @functools.cached_property
    def parquet(self) -> Any:
        with needs("arrow"):
            from pyarrow import parquet
        return parquet.ParquetFile(self.file)

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """The row after the last of each group of rows."""
        groups = self.parquet.metadata
        return np.cumsum([groups.row_group(n).num_rows for n in range(groups.num_row_groups)])

    @property
    def schema(self) -> Any:
        return self.parquet.schema_arrow

    def texts(self) -> Iterator[dict[str, Any]]:
        image = self.named["image"]
        names = [name for key, name in self.named.items() if key != "image" or self.by_path]
        has_path = self.in_struct and self.schema.field(image).type.get_field_index("path") >= 0
        wanted = [*names, f"{image}.path"] if has_path else names
        for batch in self.parquet.iter_batches(columns=wanted):
            for one in batch.to_pylist():
                yield one | ({image: one[image]["path"]} if has_path else {})

    def image(self, number: int) -> Any:
        group = int(np.searchsorted(self.ends, number, side="right"))
        first = int(self.ends[group - 1]) if group else 0
        return _group(self.file, group)[number - first].as_py()


@functools.lru_cache(maxsize=256)
def _open_file(file: Path) -> _File:
    return _Arrow(file) if file.suffix == ".arrow" else _Parquet(file)


@functools.lru_cache(maxsize=4)
def _group(file: Path, group: int) -> Any:
    """The images of a group of rows, decoded; the last few are kept."""
    opened = _open_file(file)
    assert isinstance(opened, _Parquet)
    name = opened.named["image"]
    return opened.parquet.read_row_group(group, columns=[name]).column(name)


def read(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    if file.path.suffix.lower() not in (".arrow", ".parquet"):
        return None
    return (found for _, _, found in _rows(file.path, split, root))


def _rows(first: Path, split: str, root: Path) -> Iterator[tuple[Path, int, Row]]:
    """(file, row in it, caption) of all files of a split."""
    for file in _shards(first):
        try:
            opened = _open_file(file)
            for number, fields in enumerate(opened.texts()):
                for found in _captions(opened, number, fields, split, root):
                    yield file, number, found
        except InputError:
            raise
        except Exception as error:  # Arrow raises what a damaged file leads to
            raise InputError(
                f"{file}: not a readable {file.suffix[1:]} file ({error}); get it again"
            ) from error


def _captions(opened: _File, number: int, fields: dict[str, Any], split: str, root: Path) -> Iterator[Row]:
    file, named, where = opened.file, opened.named, f"row {number}"
    values = {key: fields[name] for key, name in named.items() if fields.get(name) is not None}
    captions = values.pop("caption", None)
    if "image" not in values:
        # A picture without a name is told apart by where it lies.
        values["image"] = f"{file.name}/{number}"
    if str(values.get("image_id", "")) and not opened.by_path:
        values["image"] = str(values["image_id"])
    for caption in captions if isinstance(captions, list) else [captions]:
        if not isinstance(caption, str):
            raise InputError(f"{file}: {where}: '{named['caption']}' is no text, nor a list of texts")
        texts = {key: str(value) for key, value in values.items()} | {"caption": caption}
        if (found := row(file, where, texts, named, split, root)) is not None:
            yield found


def _shards(first: Path) -> list[Path]:
    """The file, and those beside it that differ in their number alone, in order."""
    name = _SHARD.fullmatch(first.name)
    if name is None:
        return [first]
    pattern = re.compile(rf"{re.escape(name['before'])}\d+{re.escape(name['after'])}")
    return sorted(path for path in first.parent.iterdir() if pattern.fullmatch(path.name))


def _paths(images: Any) -> list[str | None]:
    index = images.type.get_field_index("path")
    return images.field(index).to_pylist() if index >= 0 else [None] * len(images)


def _content(image: Any) -> bytes:
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        raise ValueError("the row holds no bytes of an image")
    return content


def _open(
    file: Path, split: str, table: CaptionTable, inputs: Inputs
) -> tuple[ImageSource, np.ndarray | None]:
    if _open_file(file).by_path:
        return open_image_files(file, split, table, inputs)
    places: dict[str, tuple[Path, int]] = {}
    for shard, number, found in _rows(file, split, file.parent):
        places.setdefault(found.image_id, (shard, number))
    try:
        chosen = [places[image_id] for image_id in table.image_ids]
    except KeyError as error:
        raise InputError(f"{file}: changed while it was read (image {error.args[0]})") from None
    return ArrowImages([str(path) for path in table.image_paths], chosen), None


LAYOUT = Layout(
    holds="Arrow or Parquet files with columns 'image' and 'caption'",
    names=lambda split: (
        *(f"{folder}/data-00000-of-*.arrow" for folder in folders(split)),
        *(f"{place}{name}{end}" for place in ("data/", "") for name in folders(split) for end in _ENDS),
        *("data-00000-of-*.arrow",),
    ),
    read=read,
    opens=_open,
)

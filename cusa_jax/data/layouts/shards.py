"""Tar shards of webdataset, as img2dataset writes them: KEY.jpg with KEY.txt, its caption, or KEY.json that has one.

{split}.tar, or the shards of a folder named as the split, {split}/00000.tar, {split}/00001.tar, …. The
headers of a shard are read through for its captions, and again for the places of its images; an image is read from its
place when it is asked for, and nothing is unpacked.
"""

from __future__ import annotations

import dataclasses
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.images import decode_image, image_suffixes
from cusa_jax.data.layouts.columns import folders
from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row
from cusa_jax.data.sources import ImageSource, as_pixels
from cusa_jax.errors import InputError
from cusa_jax.inputs import ImageInputs, Inputs
from cusa_jax.jsonfile import parse_json

# Of a caption or its JSON; what is longer is no caption.
_LARGEST = 1 << 20


@dataclasses.dataclass(frozen=True)
class ShardImages:
    """Image n is the bytes places[n], (offset, length) of the shard files[n]. names: SHARD/MEMBER."""

    names: Sequence[str]
    files: Sequence[Path]
    places: Sequence[tuple[int, int]]
    as_shown: bool = False

    def __len__(self) -> int:
        return len(self.places)

    def read(self, image: int, *specs: ImageInputs) -> list[np.ndarray]:
        return as_pixels(self.picture(image), self.names[image], specs)

    def picture(self, image: int) -> Image.Image:
        offset, length = self.places[image]
        try:
            with self.files[image].open("rb") as shard:
                shard.seek(offset)
                content = shard.read(length)
        except OSError as error:
            raise InputError(f"{self.names[image]}: cannot be read ({error.strerror})") from error
        return decode_image(content, self.names[image], self.as_shown)


def read(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    return _rows(file.path) if file.path.suffix.lower() == ".tar" else None


def shards(first: Path) -> list[Path]:
    """The shard, and those beside it whose names differ in their number alone, in order."""
    number = re.search(r"\d+(?=\.tar$)", first.name)
    if number is None:
        return [first]
    before, digits = re.escape(first.name[: number.start()]), len(number[0])
    pattern = re.compile(rf"{before}\d{{{digits}}}\.tar")
    return sorted(path for path in first.parent.iterdir() if pattern.fullmatch(path.name))


def _rows(first: Path) -> Iterator[Row]:
    for shard in shards(first):
        members = _members(shard)
        by_key: dict[str, dict[str, tarfile.TarInfo]] = {}
        for member in members:
            key, _, kind = _split_name(member.name)
            by_key.setdefault(key, {})[kind] = member
        for key, kinds in by_key.items():
            image = next((member for kind, member in kinds.items() if f".{kind}" in image_suffixes()), None)
            if image is not None:
                caption = _caption(shard, key, kinds)
                yield Row(key, key, shard / image.name, caption, None)


def _split_name(name: str) -> tuple[str, str, str]:
    """('dir/a', '.', 'jpg') of 'dir/a.jpg': a key ends at the first dot of the member's own name."""
    folder, _, own = name.rpartition("/")
    key, dot, kind = own.partition(".")
    return (f"{folder}/{key}" if folder else key), dot, kind.lower()


def _members(shard: Path) -> list[tarfile.TarInfo]:
    try:
        with tarfile.open(shard, "r:") as tar:
            return [member for member in tar.getmembers() if member.isfile()]
    # A damaged header can make tarfile raise almost anything.
    except Exception as error:
        raise InputError(f"{shard}: not a readable, uncompressed tar file ({error}); get it again") from error


def _caption(shard: Path, key: str, kinds: dict[str, tarfile.TarInfo]) -> str:
    """Of KEY.txt or KEY.json. Raises InputError where there is none."""
    for kind in ("txt", "json"):
        if member := kinds.get(kind):
            where = f"{shard}: {member.name}"
            if member.size > _LARGEST:
                raise InputError(f"{where}: {member.size} bytes are no caption")
            content = _bytes(shard, member)
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: not UTF-8 ({error.reason})") from error
            if kind == "txt":
                return text.strip()
            fields = parse_json(text, where)
            if isinstance(fields, dict) and isinstance(fields.get("caption"), str):
                return fields["caption"]
    raise InputError(f"{shard}: {key} has an image, but neither {key}.txt nor a caption in {key}.json")


def _bytes(shard: Path, member: tarfile.TarInfo) -> bytes:
    with shard.open("rb") as file:
        file.seek(member.offset_data)
        return file.read(member.size)


def _open(file: Path, split: str, table: CaptionTable, inputs: Inputs) -> tuple[ImageSource, None]:
    places = {
        shard / member.name: (shard, (member.offset_data, member.size))
        for shard in shards(file)
        for member in _members(shard)
    }
    try:
        found = [places[path] for path in table.image_paths]
    except KeyError as error:
        raise InputError(f"{error.args[0]}: is no longer in its shard") from None
    names = [str(path) for path in table.image_paths]
    return ShardImages(names, [shard for shard, _ in found], [place for _, place in found]), None


LAYOUT = Layout(
    holds="tar shards of images with their captions",
    names=lambda split: (f"{split}.tar", *(f"{folder}/*00000.tar" for folder in folders(split))),
    read=read,
    opens=_open,
)

"""SCAN's folders as a layout: captions in lines, features of regions in place of pictures (`data.scan`).

Beside the authors' three files of a split there may be {split}_capids.txt, the number by which a data set's publishers
know each caption, a line each: ECCV Caption and CxC go by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cusa_jax.data import scan
from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.images import open_image, preprocess
from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row, caption_id
from cusa_jax.data.scan import Features
from cusa_jax.data.sources import ImageSource
from cusa_jax.errors import InputError
from cusa_jax.inputs import ImageInputs, Inputs, Pixels, Regions

_CAPTIONS = "_caps.txt"


@dataclasses.dataclass(frozen=True)
class RegionImages:
    """Regions of each image, in one file; its picture, where one lies at its path, for teachers and for people.

    as_shown: of pictures, as viewers show them (`open_image`).
    """

    features: Features
    paths: Sequence[Path]
    as_shown: bool = False

    @property
    def names(self) -> list[str]:
        return [str(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, image: int, *specs: ImageInputs) -> list[np.ndarray]:
        return [self._read(image, spec) for spec in specs]

    def picture(self, image: int) -> Image.Image:
        return open_image(self.paths[image], self.as_shown)

    def _read(self, image: int, spec: ImageInputs) -> np.ndarray:
        if isinstance(spec, Regions):
            return self.features.read(image)
        if not self.paths[image].is_file():
            raise InputError(
                f"{self.features.file}: holds features, and {self.paths[image].name} is no picture beside it; set "
                "data.image_root to the photos that its ids name, or give features of the image teacher as a file"
            )
        return preprocess(self.picture(image), spec)


def _read(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    return _rows(file.path, root) if file.path.name.endswith(_CAPTIONS) else None


def _rows(file: Path, root: Path) -> Iterator[Row]:
    name = _name(file)
    held = scan.read_split(file.parent, name)
    numbers = scan.read_caption_ids(file.parent / f"{name}_capids.txt", len(held.captions))
    for line, (caption, image) in enumerate(zip(held.captions, held.caption_image.tolist(), strict=True)):
        where, id_ = f"line {line + 1}", held.ids[image]
        number = caption_id(file, where, {"capid": numbers[line]}, "capid") if numbers else None
        yield Row(where, id_, _path(held.features.file, root, id_), caption, number)


def _path(features: Path, root: Path, id_: str) -> Path:
    """An id that is a file's name is that of the picture; others are counted anew in every split."""
    return root / id_ if Path(id_).suffix else features / id_


def _open(
    file: Path, split: str, table: CaptionTable, inputs: Inputs
) -> tuple[ImageSource, np.ndarray | None]:
    features = scan.read_split(file.parent, _name(file)).features
    if isinstance(inputs.image, Pixels):
        raise InputError(
            f"{features.file}: features of regions, and the model takes pictures; name a model over regions "
            "(config.model.name=saf, sgr or vse), or the folder of the photos"
        )
    scan.check_regions(features, inputs.image.count, inputs.image.width)
    return RegionImages(features, table.image_paths), None


def _name(file: Path) -> str:
    return file.name.removesuffix(_CAPTIONS)


LAYOUT = Layout(
    holds="captions in lines beside features of regions, NAME_caps.txt beside NAME_ims.npy",
    names=lambda split: tuple(f"{name}{_CAPTIONS}" for name in scan.SPLITS.get(split, (split,))),
    read=_read,
    opens=_open,
)

"""Where the images of a split are: in files, in records, anywhere that a number leads to.

A source is sent to the loader processes, so it must be picklable; what it opens, it opens where it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from PIL import Image

from cusa_jax.data.images import open_image, preprocess
from cusa_jax.errors import InputError
from cusa_jax.inputs import ImageInputs, Pixels


class ImageSource(Protocol):
    """M images by their numbers.

    names: of each image, for messages; paths, where the images are files.
    """

    @property
    def names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def read(self, image: int, *specs: ImageInputs) -> list[np.ndarray]:
        """One image as each of `specs`, an array of its shape and dtype; decoded once.

        Raises InputError, which names the image, where it cannot be read, or never as such.
        """

    def picture(self, image: int) -> Image.Image:
        """What a person is shown. Raises InputError where there is nothing to show."""


@dataclasses.dataclass(frozen=True)
class SelectedImages:
    """Some images of a source: image n is number numbers[n] there."""

    source: ImageSource
    numbers: np.ndarray

    @property
    def names(self) -> list[str]:
        return [self.source.names[number] for number in self.numbers]

    @property
    def as_shown(self) -> bool:
        return getattr(self.source, "as_shown", False)

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, image: int, *specs: ImageInputs) -> list[np.ndarray]:
        return self.source.read(int(self.numbers[image]), *specs)

    def picture(self, image: int) -> Image.Image:
        return self.source.picture(int(self.numbers[image]))


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Image n is the file paths[n]. as_shown: as viewers show it (`open_image`)."""

    paths: Sequence[Path]
    as_shown: bool = False

    @property
    def names(self) -> list[str]:
        return [str(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, image: int, *specs: ImageInputs) -> list[np.ndarray]:
        return as_pixels(self.picture(image), self.paths[image], specs)

    def picture(self, image: int) -> Image.Image:
        return open_image(self.paths[image], self.as_shown)


def selected(source: ImageSource, numbers: np.ndarray) -> ImageSource:
    """Some images of a source; of files, files again."""
    if isinstance(source, ImageFiles):
        return dataclasses.replace(source, paths=[source.paths[number] for number in numbers])
    return SelectedImages(source, numbers)


def as_shown(source: ImageSource, wanted: bool, remedy: str = "set that") -> ImageSource:
    """A source whose pictures are seen as viewers show them, or as the reference sees them (`open_image`).

    Raises InputError, which names the remedy, where the pixels are stored in the other way. Sources that have no such
    field stay as they are.
    """
    if isinstance(source, SelectedImages):
        return SelectedImages(as_shown(source.source, wanted, remedy), source.numbers)
    if getattr(source, "as_shown", wanted) == wanted:
        return source
    if stored := getattr(source, "folder", None):
        raise InputError(
            f"{stored}: was prepared with config.data.as_shown={not wanted}; {remedy}, or prepare another folder"
        )
    return dataclasses.replace(cast(Any, source), as_shown=wanted)


def as_pixels(picture: Image.Image, name: object, specs: Sequence[ImageInputs]) -> list[np.ndarray]:
    """A picture as each of `specs`. Raises InputError, naming it, for a model that takes no pixels."""
    if not all(isinstance(spec, Pixels) for spec in specs):
        raise InputError(f"{name}: is a picture, and the model takes features of regions")
    return [preprocess(picture, cast(Pixels, spec)) for spec in specs]

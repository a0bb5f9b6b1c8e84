"""Random views of training images: a crop of random area and shape, and its mirror image.

A view is a function of (seed, step, image): student and live teacher see the same one, and so does a resumed run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from cusa_jax.data.sources import ImageSource, as_pixels
from cusa_jax.inputs import ImageInputs, Pixels

_LOG_ASPECTS = math.log(3 / 4), math.log(4 / 3)
_TRIES = 10
# Sets these random numbers apart from those of `order`, which come from the same seed.
_STREAM = 2


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """area: the least share of an image that a crop has; 1 does not crop. flip: mirror half of the images."""

    area: float = 1.0
    flip: bool = False

    @property
    def changes(self) -> bool:
        return self.area < 1 or self.flip

    def view(self, picture: Image.Image, key: Sequence[int]) -> Image.Image:
        """A random view of a picture. key: ints that it is a function of."""
        rng = np.random.default_rng([_STREAM, *key])
        if self.area < 1:
            picture = picture.crop(random_box(*picture.size, self.area, rng))
        return ImageOps.mirror(picture) if self.flip and rng.random() < 0.5 else picture

    def of(self, source: ImageSource, seed: int, step: int) -> ImageSource:
        """The same images, as they are seen at `step`."""
        return _Views(source, self, seed, step) if self.changes else source


NONE = Augmentation()


def random_box(width: int, height: int, area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random crop (Szegedy et al. 2015, arXiv:1409.4842; torchvision's distribution).

    Its area is uniform from `area` to 1 of the picture's, its width / height log-uniform from 3/4 to 4/3. Where no
    such box fits, which very long pictures refuse: the whole picture.
    """
    for _ in range(_TRIES):
        pixels = width * height * rng.uniform(area, 1)
        aspect = math.exp(rng.uniform(*_LOG_ASPECTS))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


@dataclasses.dataclass(frozen=True)
class _Views:
    """The images of `source` at a step."""

    source: ImageSource
    augmentation: Augmentation
    seed: int
    step: int

    @property
    def names(self) -> Sequence[str]:
        return self.source.names

    def __len__(self) -> int:
        return len(self.source)

    def read(self, image: int, *specs: ImageInputs) -> list[np.ndarray]:
        # A crop is scaled to the model's square whatever its shape: it is what the model sees, all of it.
        squashed = [
            dataclasses.replace(spec, resize="squash")
            if isinstance(spec, Pixels) and self.augmentation.area < 1
            else spec
            for spec in specs
        ]
        return as_pixels(self.picture(image), self.names[image], squashed)

    def picture(self, image: int) -> Image.Image:
        return self.augmentation.view(self.source.picture(image), (self.seed, self.step, image))

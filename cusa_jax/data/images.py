"""CLIP's image preprocessing, bit for bit what the reference feeds its model.

The host resizes and crops with Pillow and keeps uint8; the device normalises. Sources: reference
clip/clip.py:79 (`_transform`) and torchvision's Resize and CenterCrop, whose rounding is kept.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.typing import ArrayLike, DTypeLike
from PIL import Image

from cusa_jax.errors import InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Bitmaps only. Pillow would also take formats that it hands to other programs (EPS to Ghostscript).
MAX_ELONGATION = 200
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


def image_suffixes() -> frozenset[str]:
    """The endings of file names that `open_image` takes, in lower case: '.jpg', ….

    What a file is, its content says; this only tells photos from everything else in a folder.
    """
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in _FORMATS)


def open_image(path: str | Path) -> Image.Image:
    """Decode an image file to RGB. EXIF orientation is ignored, as the reference does.

    Raises:
      InputError: the file is missing, truncated, too large or too long for its width to be honest, or not an image.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                logging.warning(
                    "%s: brightness beyond 8 bits (mode %s) is clipped to 0..255", path, image.mode
                )
            if max(image.size) > MAX_ELONGATION * min(image.size):  # would be resized to millions of pixels
                raise ValueError(f"{image.width}x{image.height} pixels")
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"{path}: image not found; check data.path and data.image_root") from error
    except Exception as error:  # a corrupt file can make Pillow's decoders raise almost anything
        raise InputError(f"{path}: not a readable image ({error})") from error


def preprocess(image: Image.Image, size: int) -> np.ndarray:
    """RGB, bicubic resize of the short side to `size`, centre crop: uint8 [size, size, 3].

    The long side is truncated, int(size * long / short), and the crop offset rounded half to even.
    """
    image = image.convert("RGB")
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def load_image(path: str | Path, size: int) -> np.ndarray:
    """`preprocess` of an image file: uint8 [size, size, 3]. Errors as in `open_image`."""
    return preprocess(open_image(path), size)


class ImageReader(Protocol):
    """Reads an image by its number at one or more sizes: uint8 [size, size, 3] each. Errors as in `open_image`."""

    def __call__(self, image: int, *sizes: int) -> list[np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """The reader of image files: image n is the file paths[n], decoded once for all sizes."""

    paths: list[Path]

    def __call__(self, image: int, *sizes: int) -> list[np.ndarray]:
        picture = open_image(self.paths[image])
        return [preprocess(picture, size) for size in sizes]


def normalise(
    pixels: ArrayLike,
    dtype: DTypeLike = jnp.float32,
    *,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
) -> jax.Array:
    """(pixels / 255 - mean) / std over uint8 [..., 3], computed in float32 and then cast to `dtype`.

    Floating-point pixels are taken as normalised already and only cast.
    """
    pixels = jnp.asarray(pixels)
    if jnp.issubdtype(pixels.dtype, jnp.floating):
        return pixels.astype(dtype)
    scaled = pixels.astype(jnp.float32) / 255
    return ((scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)).astype(dtype)

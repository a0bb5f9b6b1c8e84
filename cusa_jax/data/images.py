"""Image files to pixels, bit for bit what CLIP's reference feeds its model where that is asked for.

The host resizes with Pillow and keeps uint8; the device normalises. Sources: reference clip/clip.py:79
(`_transform`) and torchvision's Resize and CenterCrop, whose rounding is kept.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import stat
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.typing import ArrayLike, DTypeLike
from PIL import Image, ImageOps

from cusa_jax.errors import UnreadableImage
from cusa_jax.inputs import CLIP_MEAN, CLIP_STD, Pixels, Resampling

MAX_ELONGATION = 200
# 16-bit greys, whatever the order of their bytes; Pillow once opened those of PNG as 'I'.
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
# Bitmaps only. Pillow would also take formats that it hands to other programs (EPS to Ghostscript).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_RESAMPLING: dict[Resampling, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def image_suffixes() -> frozenset[str]:
    """The endings of file names that `open_image` takes, in lower case: '.jpg', ….

    What a file is, its content says; this only tells photos from everything else in a folder.
    """
    formats = _formats()
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in formats)


@functools.cache
def _formats() -> tuple[str, ...]:
    """With HEIC, a phone's, where the package that decodes it is installed (the extra 'heic')."""
    if importlib.util.find_spec("pillow_heif") is None:
        return _FORMATS
    import pillow_heif

    pillow_heif.register_heif_opener()
    return (*_FORMATS, "HEIF")


def open_image(path: str | Path, as_shown: bool = False) -> Image.Image:
    """Decode an image file to RGB.

    as_shown: as viewers show it: upright by its EXIF orientation, on white where it is transparent, and 16-bit greys
      scaled to 8 bits. Without, as the reference does: both are ignored, and greys over 255 are white.

    Raises:
      InputError: the file is missing, truncated, too large or too long for its width to be honest, or not an image.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a named pipe would wait for ever
            raise ValueError("no regular file")
        return _decode(path, path, as_shown)
    except FileNotFoundError as error:
        raise UnreadableImage(f"{path}: image not found; check data.path and data.image_root") from error
    except Exception as error:  # a corrupt file can make Pillow's decoders raise almost anything
        raise UnreadableImage(f"{path}: not a readable image ({error}){_way_on(path)}") from error


def _way_on(path: str | Path) -> str:
    heic = str(path).lower().endswith((".heic", ".heif", ".hif")) and "HEIF" not in _formats()
    return "; pip install 'cusa_jax[heic]' reads HEIC" if heic else ""


def decode_image(content: bytes, name: object, as_shown: bool = False) -> Image.Image:
    """As `open_image`, of the bytes of a file. name: for messages."""
    try:
        return _decode(io.BytesIO(content), name, as_shown)
    except Exception as error:
        raise UnreadableImage(f"{name}: not a readable image ({error})") from error


def _decode(file: str | Path | io.BytesIO, name: object, as_shown: bool) -> Image.Image:
    with Image.open(file, formats=_formats()) as image:
        scaled = as_shown and image.mode in _SIXTEEN_BITS
        if image.mode.startswith(("I", "F")) and not scaled:
            logging.warning("%s: brightness beyond 8 bits (mode %s) is clipped to 0..255", name, image.mode)
        if max(image.size) > MAX_ELONGATION * min(image.size):  # would be resized to millions of pixels
            raise ValueError(f"{image.width}x{image.height} pixels")
        return _as_shown(image) if as_shown else image.convert("RGB")


def _as_shown(image: Image.Image) -> Image.Image:
    # A photo whose EXIF data are damaged is still a photo.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode in _SIXTEEN_BITS:
        return _eight_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64)
    return Image.fromarray(np.clip(levels >> 8, 0, 255).astype(np.uint8))


def preprocess(image: Image.Image, pixels: Pixels) -> np.ndarray:
    """RGB at the size of `pixels`: uint8 [size, size, 3]."""
    image, resampling = image.convert("RGB"), _RESAMPLING[pixels.resampling]
    if pixels.resize == "squash":
        return np.asarray(image.resize((pixels.size, pixels.size), resampling))
    return np.asarray(_crop(image, pixels.size, resampling))


def _crop(image: Image.Image, size: int, resampling: Image.Resampling) -> Image.Image:
    """The short side at `size`, then the central square.

    The long side is truncated, int(size * long / short), and the crop offset rounded half to even.
    """
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), resampling)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def load_image(path: str | Path, pixels: Pixels) -> np.ndarray:
    """`preprocess` of an image file: uint8 [size, size, 3]. Errors as in `open_image`."""
    return preprocess(open_image(path), pixels)


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

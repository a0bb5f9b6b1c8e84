"""Photos as the page shows them: upright JPEGs of a few sizes, whatever the file is."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path

from PIL import Image

from cusa_jax.data.images import open_image
from cusa_jax.errors import InputError

# Pixels of the longer side.
_THUMBNAIL = 360
_LARGE = 1600


def thumbnail(path: Path) -> bytes:
    """Kept for as long as the file stays as it is. Errors as in `open_image`."""
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path}: image not found") from error
    return _thumbnail(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(4000)
def _thumbnail(path: Path, _changed: int, _size: int) -> bytes:
    return _jpeg(open_image(path, as_shown=True), _THUMBNAIL)


def large(path: Path) -> bytes:
    return _jpeg(open_image(path, as_shown=True), _LARGE)


def decoded(content: bytes) -> Image.Image:
    """RGB, as viewers show it. Raises InputError for what is no picture."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return open_image(file.name, as_shown=True)


def _jpeg(picture: Image.Image, side: int) -> bytes:
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()

"""The folders of SCAN's region features: {train,dev,test,testall}_{ims.npy,caps.txt,ids.txt}.

ims.npy   float [M, R, D], a detector's features of R regions of each image; also [N, R, D], each image of five
          captions five times over
caps.txt  N captions, a line each; the five of an image one after another
ids.txt   optional: a line for each image (or for each caption), by which it is named

Features stay on the disk: an image is read when it is asked for.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from cusa_jax.errors import InputError, one_line

CAPTIONS_PER_IMAGE = 5
SPLITS = {
    "train": ("train",),
    "val": ("dev",),
    "test": ("testall", "test"),
}  # theirs by ours, the whole one first


@dataclasses.dataclass(frozen=True)
class Features:
    """Regions of M images in a file, row by row from byte `start` on. repeated: rows of each image, 1 or 5."""

    file: Path
    start: int
    dtype: np.dtype
    repeated: int
    images: int
    regions: int
    width: int

    def read(self, image: int) -> np.ndarray:
        """float32 [R, D]. Raises InputError where they are not finite, or not in the file any more.

        The header of the file is not parsed again: many threads read at once, and CPython 3.11's parser, by which numpy
        reads headers, fails there now and then.
        """
        numbers = self.regions * self.width
        offset = self.start + image * self.repeated * numbers * self.dtype.itemsize
        try:
            read = np.fromfile(self.file, self.dtype, numbers, offset=offset)
        except OSError as error:
            raise InputError(f"{self.file}: cannot be read ({error.strerror or error})") from error
        if len(read) < numbers:
            raise InputError(f"{self.file}: ends before image {image}; it was cut short since it was opened")
        regions = read.astype(np.float32).reshape(self.regions, self.width)
        if not np.isfinite(regions).all():
            raise InputError(f"{self.file}: image {image} has features that are NaN or infinite")
        return regions


@dataclasses.dataclass(frozen=True)
class ScanSplit:
    """One split. captions: N as written. caption_image: int32 [N], the number of each one's image. ids: M names."""

    captions: list[str]
    caption_image: np.ndarray
    ids: list[str]
    features: Features


def split_name(folder: Path, split: str) -> str | None:
    """By which name the folder has our split ('train', 'val' or 'test'); None where it does not."""
    names = SPLITS.get(split, (split,))
    return next((name for name in names if (folder / f"{name}_caps.txt").is_file()), None)


def read_split(folder: Path, name: str) -> ScanSplit:
    """Reads a split by its name in the folder.

    Raises InputError for files that are missing or broken, empty captions, and numbers of images, captions and ids
    that do not belong together.
    """
    captions_file = folder / f"{name}_caps.txt"
    captions = _lines(captions_file)
    if not captions:
        raise InputError(f"{captions_file}: holds no captions")
    if "" in captions:
        raise InputError(
            f"{captions_file}: line {captions.index('') + 1} is empty; give the image another caption"
        )
    features = _features(folder / f"{name}_ims.npy", captions_file, len(captions))
    per_image = len(captions) // features.images
    caption_image = (np.arange(len(captions)) // per_image).astype(np.int32)
    return ScanSplit(
        captions, caption_image, _ids(folder / f"{name}_ids.txt", features, len(captions)), features
    )


def read_caption_ids(file: Path, captions: int) -> list[str]:
    """As written, one a caption; none where there is no file. Raises InputError for another number of them."""
    if not file.is_file():
        return []
    numbers = _lines(file)
    if len(numbers) != captions:
        raise InputError(f"{file}: {len(numbers)} ids, but there are {captions} captions")
    return numbers


def check_regions(features: Features, regions: int, width: int) -> None:
    """Raises InputError where a model takes others."""
    if (features.regions, features.width) != (regions, width):
        raise InputError(
            f"{features.file}: {features.regions} regions of {features.width} an image, but the model takes {regions} "
            f"of {width}; set config.model's regions={features.regions} and img_dim={features.width} to train on these"
        )


def _features(file: Path, captions_file: Path, captions: int) -> Features:
    features = _open(file)
    if features.ndim != 3 or features.dtype.kind != "f" or 0 in features.shape:
        raise InputError(
            f"{file}: {features.dtype} {features.shape}, and features are float [images, regions, width]"
        )
    if not features.flags.c_contiguous:
        raise InputError(f"{file}: is in Fortran's order; write it with numpy.ascontiguousarray")
    rows, regions, width = features.shape
    # Where there is a row for each caption: either one caption an image, or each image as often as it has captions.
    repeated = CAPTIONS_PER_IMAGE if rows == captions and _is_repeated(features) else 1
    if captions not in (rows, rows * CAPTIONS_PER_IMAGE):
        raise InputError(
            f"{file}: {rows} images, but {captions_file} has {captions} captions; there are {CAPTIONS_PER_IMAGE} of "
            "each image, or as many rows as captions"
        )
    return Features(file, features.offset, features.dtype, repeated, rows // repeated, regions, width)


def _is_repeated(features: np.ndarray) -> bool:
    """Whether each image is in five rows, one after another, as the first and the last of them show."""
    if len(features) % CAPTIONS_PER_IMAGE:
        return False
    return all(
        all(np.array_equal(features[start], features[start + n]) for n in range(1, CAPTIONS_PER_IMAGE))
        for start in (0, len(features) - CAPTIONS_PER_IMAGE)
    )


def _open(file: Path) -> np.memmap:
    """Mapped into memory. Raises InputError for what is no .npy file of numbers."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError) as error:
        raise InputError(f"{file}: not a readable .npy file, or cut short ({error}); get it again") from error


def _lines(file: Path) -> list[str]:
    """Lines without what is white around them. Raises InputError for what is no UTF-8."""
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    if not lines[-1].strip():
        lines.pop()
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line.strip().decode())
        except UnicodeDecodeError as error:
            raise InputError(
                f"{file}: line {number}: not UTF-8 ({error.reason}); save it as UTF-8"
            ) from error
    return texts


def _ids(file: Path, features: Features, captions: int) -> list[str]:
    """A name of each image; its number where there is no file."""
    if not file.is_file():
        return [str(number) for number in range(features.images)]
    ids = _lines(file)
    if len(ids) == captions != features.images:
        ids = ids[:: captions // features.images]
    if len(ids) != features.images:
        raise InputError(f"{file}: {len(ids)} ids, but there are {features.images} images")
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise InputError(f"{file}: two images have the id '{one_line(twice)}'")
    return ids

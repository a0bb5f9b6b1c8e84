"""Writes SCAN's folders (`data.scan`) from features of one's own images: a vision tower's, or a detector's files."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from cusa_jax.data import scan
from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.errors import InputError, one_line
from cusa_jax.files import written_whole
from cusa_jax.progress import progress
from cusa_jax.teachers.features import write_features

# (numbers int [b] of images, their features float [b, R, D]), every image at most once.
Batches = Iterable[tuple[np.ndarray, np.ndarray]]
_KEYS = ("features", "x")  # by which detectors' files hold regions


def chosen(table: CaptionTable) -> tuple[np.ndarray, list[str]]:
    """The images with at least five captions, by number, and the first five captions of each, in order.

    SCAN's layout has five of every image. Raises InputError where no image has them.
    """
    captions: list[list[str]] = [[] for _ in table.image_ids]
    for caption, image in zip(table.captions, table.caption_image.tolist(), strict=True):
        # A line is a caption.
        captions[image].append(" ".join(caption.split()) or ".")
    count = scan.CAPTIONS_PER_IMAGE
    images = np.array([n for n, own in enumerate(captions) if len(own) >= count], np.int64)
    if not len(images):
        raise InputError(
            f"no image has {count} captions, as SCAN's layout needs; caption them, or train on photos"
        )
    return images, [caption for image in images for caption in captions[image][:count]]


def write_split(
    folder: Path,
    split: str,
    table: CaptionTable,
    features: Callable[[np.ndarray], Batches],
    *,
    some: bool = False,
) -> int:
    """One split, {name}_{ims.npy,caps.txt,ids.txt,pooled.npz}, unless it is there.

    The last holds the mean of each image's regions by its id, which can be the image teacher's feature.
    Returns how many images have fewer than five captions: left out.
    features: image numbers -> their features, batch by batch; numbers count within those asked for.
    some: images without features are left out, with their captions. Raises InputError where there are any, else.
    """
    images, captions = chosen(table)
    name = scan.SPLITS[split][-1]
    left_out = len(table.image_ids) - len(images)
    # Its files are written in this order: an earlier call, that was stopped later, has done it.
    if (folder / f"{name}_pooled.npz").is_file():
        return left_out
    ids = [table.image_ids[image] for image in images]
    if broken := [image for image in ids if len(image.splitlines()) != 1]:
        raise InputError(f"image id {broken[0]!r:.80}: SCAN's layout has one id a line; rename it")
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / f"{name}_ims.npy") as fresh:
        found = _write_features(fresh, len(images), features(images), some)
    ids = list(itertools.compress(ids, found))
    captions = list(itertools.compress(captions, np.repeat(found, scan.CAPTIONS_PER_IMAGE)))
    for kind, lines in (("caps", captions), ("ids", ids)):
        with written_whole(folder / f"{name}_{kind}.txt") as fresh:
            fresh.write_text("\n".join(lines) + "\n", "utf-8")
    regions = np.load(folder / f"{name}_ims.npy", mmap_mode="r")
    pooled = np.stack([image.mean(axis=0, dtype=np.float32) for image in regions])
    write_features(folder / f"{name}_pooled.npz", ids, pooled)
    return left_out


def standardise(source: Path, folder: Path) -> None:
    """Writes the splits of `source` into `folder`: each number less its mean over the training images' regions, over
    its deviation there. Numbers that are always the same become 0.

    A model that starts from random weights learns faster from these.
    """
    # Image by image: they may be more than the memory holds.
    training = np.load(source / f"{scan.SPLITS['train'][-1]}_ims.npy", mmap_mode="r")
    regions = len(training) * training.shape[1]
    mean = sum(image.sum(axis=0, dtype=np.float64) for image in training) / regions
    deviation = np.sqrt(sum(np.square(image - mean).sum(axis=0) for image in training) / regions)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
    for *_, name in scan.SPLITS.values():
        held = np.load(source / f"{name}_ims.npy", mmap_mode="r")
        own = ((np.array([n]), ((image - mean) * scale)[None]) for n, image in enumerate(held))
        with written_whole(folder / f"{name}_ims.npy") as fresh:
            _write_features(fresh, len(held), own)
        for kind in ("caps.txt", "ids.txt", "pooled.npz"):
            with written_whole(folder / f"{name}_{kind}") as fresh:
                shutil.copyfile(source / f"{name}_{kind}", fresh)


def grid_means(patches: np.ndarray, grid: int) -> np.ndarray:
    """Patches [B, side², D] row by row -> means over grid x grid windows [B, grid², D], which may overlap.

    Windows are those of torch's AdaptiveAvgPool2d. Raises InputError where patches are no square, or too few.
    """
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1] or grid > side:
        raise InputError(
            f"--grid={grid}: the model has {patches.shape[1]} patches, which are no square of {grid} x {grid} or more"
        )
    square = patches.reshape(len(patches), side, side, -1)
    edges = [(side * n // grid, -(-side * (n + 1) // grid)) for n in range(grid)]
    means = [
        square[:, top:bottom, left:right].mean(axis=(1, 2)) for top, bottom in edges for left, right in edges
    ]
    return np.stack(means, axis=1)


def _write_features(file: Path, count: int, batches: Batches, some: bool = False) -> np.ndarray:
    """Returns bool [count], which have features; the others have no row. Raises InputError unless `some` will do."""
    held, missing = None, np.ones(count, bool)
    with progress(total=count, what="regions", unit="image") as bar:
        for numbers, rows in batches:
            if held is None:
                held = np.lib.format.open_memmap(file, "w+", np.float32, (count, *rows.shape[1:]))
            held[numbers] = rows[: len(numbers)]
            missing[numbers] = False
            bar.update(len(numbers))
    if held is None or (missing.any() and not some):
        raise InputError(f"{int(missing.sum())} of {count} images have no features; nothing was written")
    held.flush()
    if missing.any():
        kept = np.flatnonzero(~missing)
        with written_whole(file) as fewer:
            _write_features(fewer, len(kept), ((np.array([n]), held[kept[[n]]]) for n in range(len(kept))))
    return ~missing


def detected(folder: Path, names: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`Batches` of a detector's files, FOLDER/NAME.npz with `features` (or `x`) float [R, D]; as many in each.

    Raises InputError for a file that is missing, damaged, or of another shape than the first, and for two images that
    would have the same one.
    """
    images_of: dict[str, str] = {}
    for name in names:
        if (other := images_of.setdefault(Path(name).stem, name)) != name:
            raise InputError(
                f"{folder}: {other} and {name} would both have {Path(name).stem}.npz; rename one"
            )
    shape: tuple[int, ...] | None = None
    for number, name in enumerate(names):
        file = folder / f"{Path(name).stem}.npz"
        regions = _regions(file)
        shape = shape or regions.shape
        if regions.shape != shape:
            raise InputError(
                f"{file}: {list(regions.shape)} regions and numbers, but the first file has {list(shape)}; keep as "
                "many regions of every image"
            )
        yield np.array([number]), regions[None]


def _regions(file: Path) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            key = next((key for key in _KEYS if key in arrays), None)
            regions = arrays[key] if key else None
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; every image needs its regions") from error
    # What a damaged archive does to a parser cannot be foreseen.
    except Exception as error:
        raise InputError(f"{file}: not a readable .npz ({one_line(str(error))})") from error
    if regions is None or regions.ndim != 2 or regions.dtype.kind != "f" or not np.isfinite(regions).all():
        raise InputError(f"{file}: needs finite floating-point `features` (or `x`), [regions, width]")
    return np.asarray(regions, np.float32)

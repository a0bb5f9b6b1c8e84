"""Writes SCAN's folders (`data.scan`) from features of one's own images: a vision tower's, or a detector's files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from cusa_jax.data import scan
from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.errors import InputError, one_line
from cusa_jax.files import written_whole

# (numbers int [b] of images, their features float [b, R, D]), every image once.
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
    folder: Path, split: str, table: CaptionTable, features: Callable[[np.ndarray], Batches]
) -> int:
    """One split, {name}_{ims.npy,caps.txt,ids.txt}. Returns how many images have fewer than five captions: left out.

    features: image numbers -> their features, batch by batch; numbers count within those asked for.
    """
    images, captions = chosen(table)
    name = scan.SPLITS[split][-1]
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / f"{name}_ims.npy") as fresh:
        _write_features(fresh, len(images), features(images))
    ids = [table.image_ids[image] for image in images]
    for kind, lines in (("caps", captions), ("ids", ids)):
        with written_whole(folder / f"{name}_{kind}.txt") as fresh:
            fresh.write_text("\n".join(lines) + "\n", "utf-8")
    return len(table.image_ids) - len(images)


def _write_features(file: Path, count: int, batches: Batches) -> None:
    held, missing = None, np.ones(count, bool)
    for numbers, rows in batches:
        if held is None:
            held = np.lib.format.open_memmap(file, "w+", np.float32, (count, *rows.shape[1:]))
        held[numbers] = rows[: len(numbers)]
        missing[numbers] = False
    if held is None or missing.any():
        raise InputError(f"{int(missing.sum())} of {count} images have no features; nothing was written")
    held.flush()


def detected(folder: Path, names: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`Batches` of a detector's files, FOLDER/NAME.npz with `features` (or `x`) float [R, D]; as many in each.

    Raises InputError for a file that is missing, damaged, or of another shape than the first.
    """
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

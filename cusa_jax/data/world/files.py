"""Writing the world to a folder in the reference's file format, so that the ordinary readers read it."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from cusa_jax.data.world.scenes import meanings
from cusa_jax.data.world.splits import SPECIFICITY, World, generate
from cusa_jax.errors import InputError
from cusa_jax.jsonfile import read_json, write_json

DEFAULT_SIZES = {"train": 10_000, "val": 500, "test": 500}
_WITH_RELEVANCE = ("val", "test")
_RECORD = "world.json"
_FORMAT = 1  # raise when the same arguments write something else


def write(
    folder: str | os.PathLike,
    sizes: Mapping[str, int] = DEFAULT_SIZES,
    seed: int = 0,
    image_size: int = 32,
    *,
    specificity: float = SPECIFICITY,
) -> Path:
    """Write one split for each name in `sizes` (split -> number of images); nothing if it is there already.

    `{split}.json`: one {"image_path", "caption", "image_id"} for each caption.
    `images/{image_id}.png`: image_size pixels square.
    `{val,test}_relevance.npy`: bool [captions, images], captions in the order of the rows, images in the
        order in which they first appear there.
    `world.json`: the arguments, the sha256 of every split, and how many scenes of each other split repeat
        the meaning of a training scene by chance.

    Returns the folder, which is either whole or not there. Raises InputError if it holds anything else.
    """
    folder = Path(folder)
    arguments = {
        "format": _FORMAT,
        "seed": seed,
        "image_size": image_size,
        "specificity": specificity,
        "sizes": dict(sizes),
    }
    if _is_written(folder, arguments):
        return folder
    try:
        with _new_draft(folder) as draft:
            _write_draft(draft, arguments)
            draft.chmod(0o755)  # mkdtemp's is 0700
            draft.rename(folder)
    except OSError as error:
        if not _is_written(folder, arguments):  # else another process was faster
            raise InputError(f"{folder}: the embedded world cannot be written ({error.strerror})") from error
    return folder


@contextlib.contextmanager
def _new_draft(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that is gone at the end, if it has not been renamed.

    Its lock lives as long as this process: drafts of killed runs have none, and are removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.draft-"
    # While it holds the parent, nobody takes a draft that has no lock yet for a dead one.
    with _locked(folder.parent, wait=True):
        for old in folder.parent.glob(f"{glob.escape(prefix)}*"):
            with _locked(old) as dead:
                if dead:
                    shutil.rmtree(old, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        alive = contextlib.ExitStack()
        alive.enter_context(_locked(draft))
    with alive:
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process has the lock of a folder, which it then keeps to the end; file systems may have none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # gone meanwhile, or no folder of ours
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        held = True
    except OSError:
        held = False
    try:
        yield held
    finally:
        os.close(descriptor)


def _is_written(folder: Path, arguments: dict) -> bool:
    record = folder / _RECORD
    if not record.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"{folder}: is in the way of the embedded world; remove it or name another folder"
            )
        return False
    written = read_json(record, f"remove {folder}")
    if lacking := [name for name in arguments if name not in written]:
        raise InputError(
            f"{record}: not a record of the embedded world, without {lacking[0]}; remove {folder}"
        )
    differing = [name for name, value in arguments.items() if written[name] != value]
    if differing:
        name = differing[0]
        raise InputError(
            f"{record}: {name} is {written[name]}, not {arguments[name]}; "
            f"remove {folder} or name another folder"
        )
    return True


def _write_draft(folder: Path, arguments: dict) -> None:
    (folder / "images").mkdir()
    options = {name: arguments[name] for name in ("seed", "image_size", "specificity")}
    fingerprints, split_meanings = {}, {}
    for split, n_images in arguments["sizes"].items():
        drawn = generate(split, n_images, **options)
        fingerprints[split] = drawn.sha256()
        split_meanings[split] = meanings(drawn.scenes)
        _write_split(folder, split, drawn)
    train = set(split_meanings.pop("train", []))
    record = arguments | {
        "sha256": fingerprints,
        "meanings_also_in_train": {
            split: sum(key in train for key in keys) for split, keys in split_meanings.items()
        },
    }
    write_json(folder / _RECORD, record)


def _write_split(folder: Path, split: str, drawn: World) -> None:
    ids = [f"{split}_{n:06d}" for n in range(len(drawn.images))]
    for image_id, image in zip(ids, drawn.images, strict=True):
        Image.fromarray(image).save(folder / "images" / f"{image_id}.png", compress_level=1)
    rows = [
        {"image_path": f"images/{ids[n]}.png", "caption": caption, "image_id": ids[n]}
        for n, caption in zip(drawn.caption_image, drawn.captions, strict=True)
    ]
    (folder / f"{split}.json").write_text(json.dumps(rows, indent=0) + "\n")
    if split in _WITH_RELEVANCE:
        np.save(folder / f"{split}_relevance.npy", drawn.relevance)

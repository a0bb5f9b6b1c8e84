"""A prepared folder: captions like any other folder, with the pixels and token ids computed beforehand.

prepared.json          what it was prepared for: image size, context length, checksums of the captions
{split}.json           the captions, in the reference's layout; image paths are those of the original files
{split}_relevance.npy  exact relevance, where the source has it
{split}_tokens.npy     uint16 [N, L], CLIP token ids of the cleaned captions
captioned_images/      pixels, captions and tokens, one record per image (`records.py`)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.data.captions import CaptionTable, Split
from cusa_jax.data.images import ImageFiles
from cusa_jax.data.prefetch import OnBadImage
from cusa_jax.errors import InputError
from cusa_jax.workdir import write_json

_MANIFEST = "prepared.json"
_FORMAT = 1  # raise when the same source is prepared differently
_OPENING = threading.Lock()  # two threads importing tensorflow-datasets at once can wait for each other


@dataclasses.dataclass(frozen=True)
class PreparedImages:
    """Reads images by number, as `ImageFiles` does: those of `size` from the records, others from their files."""

    folder: Path
    split: str
    size: int
    files: ImageFiles

    def __call__(self, image: int, *sizes: int) -> list[np.ndarray]:
        others = [size for size in sizes if size != self.size]
        decoded = dict(zip(others, self.files(image, *others), strict=True)) if others else {}
        return [decoded[size] if size in decoded else self._stored(image) for size in sizes]

    def _stored(self, image: int) -> np.ndarray:
        try:
            with _OPENING:
                read = _records(self.folder, self.split)
            record = read(image)
        except InputError:
            raise
        except Exception as error:  # ArrayRecord checks each chunk it reads
            raise InputError(
                f"{self.folder}: the record of image {image} of split '{self.split}' is damaged ({error}); "
                "run scripts/prepare.py on it again, which names the file"
            ) from error
        if record["error"]:
            raise InputError(record["error"].decode())
        return record["pixels"]


def is_prepared(path: str | Path) -> bool:
    return (Path(path) / _MANIFEST).is_file()


def prepare(
    folder: Path,
    splits: Mapping[str, Split],
    *,
    image_size: int,
    context_length: int,
    on_bad_image: OnBadImage = "error",
) -> None:
    """Writes, continues or verifies the prepared folder of `splits`.

    Raises InputError where the folder was prepared from other captions or for other sizes, where an image cannot
    be read (unless on_bad_image is 'skip': such images stay unreadable), and where a finished folder is damaged.
    """
    from cusa_jax.data import records

    rows = {name: json.dumps(_rows(split.table), indent=0) + "\n" for name, split in splits.items()}
    manifest = {
        "format": _FORMAT,
        "image_size": image_size,
        "context_length": context_length,
        "captions": {name: _sha256(text) for name, text in rows.items()},
    }
    _claim(folder, manifest)
    for name, split in splits.items():
        (folder / f"{name}.json").write_text(rows[name], encoding="utf8")
        np.save(folder / f"{name}_tokens.npy", split.tokens.astype(np.uint16))
        if split.relevance is not None:
            np.save(folder / f"{name}_relevance.npy", split.relevance)
    longest = max(split.tokens.shape[1] for split in splits.values())
    images = {
        name: records.Images(
            split.table,
            split.captions,
            np.pad(split.tokens, ((0, 0), (0, longest - split.tokens.shape[1]))),
        )
        for name, split in splits.items()
    }
    records.write(folder, images, image_size=image_size, on_bad_image=on_bad_image)


def read_prepared(
    path: str | Path, split: str, table: CaptionTable, *, image_size: int | None, context_length: int
) -> tuple[CaptionTable, np.ndarray]:
    """The table with its pixels, and the token ids int32 [N, L], of a split of a prepared folder.

    table: as read from the folder's captions. image_size: of the model that trains; None reads no pixels.
    Raises InputError where the folder was prepared for another model, or lacks what it should hold.
    """
    folder = Path(path).resolve()
    manifest = _read_manifest(folder)
    for key, wanted in (("image_size", image_size), ("context_length", context_length)):
        if wanted is not None and manifest[key] != wanted:
            raise InputError(
                f"{folder}: was prepared with {key} {manifest[key]}, but the model has {wanted}; prepare "
                "another folder for it, or train on the original images"
            )
    if _sha256((folder / f"{split}.json").read_text(encoding="utf8")) != manifest["captions"].get(split):
        raise InputError(f"{folder}/{split}.json: changed since it was prepared; prepare another folder")
    file = folder / f"{split}_tokens.npy"
    try:
        tokens = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: not a readable array ({error}); run scripts/prepare.py again") from error
    if tokens.dtype != np.uint16 or tokens.ndim != 2 or len(tokens) != len(table.captions):
        raise InputError(
            f"{file}: {tokens.dtype}{list(tokens.shape)}, but there are {len(table.captions)} captions; "
            "run scripts/prepare.py again"
        )
    images = PreparedImages(folder, split, manifest["image_size"], ImageFiles(table.image_paths))
    return dataclasses.replace(table, prepared=images), tokens.astype(np.int32)


def _rows(table: CaptionTable) -> list[dict[str, Any]]:
    """One row per caption in the layout of the reference, from which `read_captions` makes the same table."""
    rows = []
    for number, (caption, image) in enumerate(zip(table.captions, table.caption_image.tolist(), strict=True)):
        row = {
            "image_path": str(table.image_paths[image]),
            "caption": caption,
            "image_id": table.image_ids[image],
        }
        if table.caption_ids is not None:
            row["caption_id"] = int(table.caption_ids[number])
        rows.append(row)
    return rows


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Makes the folder this manifest's. Raises InputError where it holds anything else."""
    if is_prepared(folder):
        found = _read_manifest(folder)
        if differing := [key for key, value in manifest.items() if found[key] != value]:
            key = differing[0]
            told = "" if key == "captions" else f" ({found[key]}, not {manifest[key]})"
            raise InputError(
                f"{folder}: was prepared with another {key.replace('_', ' ')}{told}; name another folder or "
                "delete it"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not a prepared folder; name another")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _MANIFEST, manifest)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / _MANIFEST
    try:
        manifest = json.loads(file.read_text())
        return {key: manifest[key] for key in ("format", "image_size", "context_length", "captions")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a readable record of a prepared folder ({error!r})") from error


@functools.lru_cache(maxsize=8)
def _records(folder: Path, split: str) -> Callable[[int], dict[str, Any]]:
    """Opened once in each process, and only in those that read: tensorflow-datasets takes a second to import."""
    from cusa_jax.data import records

    return records.open_records(folder, split)

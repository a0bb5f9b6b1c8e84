"""Caption files of the field: where a split's lies, and its rows.

Four JSON layouts are told apart by their content:

- the reference's own: a list of {"image_path", "caption", "image_id"}, one row per caption;
- ALBEF's: a list of {"image", "caption", "image_id"}; in its validation and test files the caption is a
  list and there is no image_id (the image path is the id);
- Karpathy's: {"images": [{"filename", "split", "sentences": [{"raw", "sentid"}], ...}]}, all splits in one;
- COCO's own: {"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}, where images without
  a caption are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cusa_jax.errors import InputError

_KARPATHY_SPLITS = {"train": ("train", "restval")}


class Row(NamedTuple):
    """One caption and its image."""

    where: str  # "row 7" or "images[7]", for messages
    image_id: str
    image_path: Path
    caption: str
    caption_id: int | None


def find_captions(path: Path, split: str) -> Path:
    """The file that holds the captions of a split.

    path: that file, or a folder in which the first of `new_{split}.json`, `{split}.json`, `dataset*.json` (Karpathy),
    `*_{split}.json` (ALBEF) and, for 'test', `captions_val*.json` (COCO) is taken.
    Raises InputError where there is none, or two that fit as well.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder or JSON file; point data.path at your captions (see README)"
        )
    patterns = [f"new_{split}.json", f"{split}.json", "dataset*.json", f"*_{split}.json"]
    if split == "test":
        patterns.append("captions_val*.json")
    for pattern in patterns:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise InputError(f"{path}: which of {names} is meant? Point data.path at that file")
        if found:
            return found[0]
    if found := sorted(path.glob("captions_*.json")):
        raise InputError(
            f"{found[0]}: COCO's own files do not say which images are of split '{split}'; "
            f"call the one that is meant {split}.json, or get Karpathy's dataset_coco.json"
        )
    raise InputError(
        f"{path}: no captions of split '{split}' (looked for {', '.join(patterns)}); "
        "the README says which files to download, or how to write your own"
    )


def read_rows(file: Path, split: str, root: Path) -> Iterator[Row]:
    """One row per caption of the split, in the order of the file. root: what image paths are relative to.

    Raises InputError for broken JSON and unknown layouts, and while it goes for a row that is not what it must be.
    """
    data = _read_json(file)
    if isinstance(data, dict) and "annotations" in data and "images" in data:
        return _coco_rows(file, data, root)
    if isinstance(data, dict) and isinstance(data.get("images"), list):
        return _karpathy_rows(file, data, split, root)
    if isinstance(data, list):
        return _flat_rows(file, data, root)
    raise InputError(
        f"{file}: neither a list of rows with 'image_path' (or 'image') and 'caption', "
        "nor a Karpathy file with 'images', nor COCO's with 'images' and 'annotations'"
    )


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))  # Windows editors write a BOM
    except (ValueError, RecursionError) as error:  # also a UnicodeDecodeError
        raise InputError(f"{file}: not valid JSON ({error})") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error


def _flat_rows(file: Path, data: list[Any], root: Path) -> Iterator[Row]:
    for number, row in enumerate(data):
        where = f"row {number}"
        path_key = "image" if isinstance(row, dict) and "image_path" not in row else "image_path"
        path = _field(file, where, row, path_key, str)
        captions = _field(file, where, row, "caption", str, list)
        # Only ALBEF's rows may do without an id: there the path is the id.
        image_id = path if path_key == "image" and "image_id" not in row else None
        image_id = image_id or str(_field(file, where, row, "image_id", str, int))
        if isinstance(captions, str):
            yield Row(where, image_id, root / path, captions, _caption_id(file, where, row, "caption_id"))
        elif captions and all(isinstance(caption, str) for caption in captions):
            yield from (Row(where, image_id, root / path, caption, None) for caption in captions)
        else:
            raise InputError(f"{file}: {where}: 'caption' must be a string or a list of at least one string")


def _karpathy_rows(file: Path, data: dict[str, Any], split: str, root: Path) -> Iterator[Row]:
    wanted = _KARPATHY_SPLITS.get(split, (split,))
    for number, image in enumerate(data["images"]):
        where = f"images[{number}]"
        if _field(file, where, image, "split", str) not in wanted:
            continue
        filename = _field(file, where, image, "filename", str)
        filepath = _field(file, where, image, "filepath", str) if "filepath" in image else ""
        path = _karpathy_path(root, filepath, filename)
        image_id = str(image["cocoid"]) if "cocoid" in image else Path(filename).stem
        sentences = _field(file, where, image, "sentences", list)
        if not sentences:
            raise InputError(f"{file}: {where}: 'sentences' is empty; remove the image or give it a caption")
        for sentence in sentences:
            caption = _field(file, where, sentence, "raw", str)
            yield Row(where, image_id, path, caption, _caption_id(file, where, sentence, "sentid"))


def _karpathy_path(root: Path, filepath: str, filename: str) -> Path:
    """COCO's entries name their folder; Flickr30K's do not, and live in `flickr30k-images` or in the root."""
    if filepath:
        return root / filepath / filename
    flickr = root / "flickr30k-images" / filename
    return root / filename if not flickr.exists() and (root / filename).exists() else flickr


def _coco_rows(file: Path, data: dict[str, Any], root: Path) -> Iterator[Row]:
    paths: dict[int, Path] = {}
    for number, image in enumerate(_field(file, "the file", data, "images", list)):
        where = f"images[{number}]"
        path = _coco_path(root, _field(file, where, image, "file_name", str))
        if paths.setdefault(_field(file, where, image, "id", int), path) != path:
            raise InputError(f"{file}: {where}: 'id' {image['id']} is already that of another image")
    for number, row in enumerate(_field(file, "the file", data, "annotations", list)):
        where = f"annotations[{number}]"
        image_id = _field(file, where, row, "image_id", int)
        if image_id not in paths:
            raise InputError(f"{file}: {where}: 'image_id' {image_id} is that of none of 'images'")
        caption = _field(file, where, row, "caption", str)
        yield Row(where, str(image_id), paths[image_id], caption, _caption_id(file, where, row, "id"))


def _coco_path(root: Path, name: str) -> Path:
    """COCO_val2014_….jpg lies in the root, or in its folder `val2014`."""
    folder = re.match(r"COCO_(\w+)_\d+\.", name)
    return root / folder[1] / name if folder and not (root / name).exists() else root / name


def _field(file: Path, where: str, row: Any, key: str, *types: type) -> Any:
    if not isinstance(row, dict):
        raise InputError(f"{file}: {where}: expected an object with named fields, found {type(row).__name__}")
    if key not in row:
        have = ", ".join(map(str, row)) or "nothing"
        raise InputError(f"{file}: {where}: key '{key}' is missing (the row has {have})")
    if not isinstance(row[key], types) or isinstance(row[key], bool):
        expected = " or ".join(type_.__name__ for type_ in types)
        raise InputError(f"{file}: {where}: '{key}' must be {expected}, not {type(row[key]).__name__}")
    return row[key]


def _caption_id(file: Path, where: str, row: dict[str, Any], key: str) -> int | None:
    if key not in row:
        return None
    if not re.fullmatch(r"-?\d{1,18}", str(row[key])):  # 18 digits always fit int64
        raise InputError(f"{file}: {where}: '{key}' must be an integer, not {row[key]!r}")
    return int(row[key])

"""Caption files of the field, read into one table.

Four JSON layouts are told apart by their content:

- the reference's own: a list of {"image_path", "caption", "image_id"}, one row per caption;
- ALBEF's: a list of {"image", "caption", "image_id"}; in its validation and test files the caption is a
  list and there is no image_id (the image path is the id);
- Karpathy's: {"images": [{"filename", "split", "sentences": [{"raw", "sentid"}], ...}]}, all splits in one;
- COCO's own: {"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}, where images without
  a caption are left out.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from cusa_jax.data.images import ImageFiles, ImageReader
from cusa_jax.errors import InputError

MAX_WORDS = 64
_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(",.'!?\"()*#:;~-/", " "))
_KARPATHY_SPLITS = {"train": ("train", "restval")}


@dataclasses.dataclass(frozen=True)
class CaptionTable:
    """One split: M images, N captions, any number of captions per image.

    image_ids: M ids, in order of first appearance in the file.
    image_paths: M absolute paths; whether they exist is found out when they are read.
    captions: N captions as written.
    caption_image: int32 [N], the number of each caption's image.
    caption_ids: int64 [N], ids of the captions (COCO annotation ids, Karpathy's `sentid`); None unless
        every caption has one.
    prepared: reads images that were preprocessed beforehand (`prepared.py`); None reads the files.
    """

    image_ids: list[str]
    image_paths: list[Path]
    captions: list[str]
    caption_image: np.ndarray
    caption_ids: np.ndarray | None
    prepared: ImageReader | None = None

    @property
    def read_image(self) -> ImageReader:
        """Images by number."""
        return self.prepared or ImageFiles(self.image_paths)

    @property
    def image_names(self) -> list[str]:
        """M names that end in the number by which a dataset's publishers know an image, where it has one.

        They are the ids where those are numbers (COCO's own, Karpathy's `cocoid`), else the files' paths.
        """
        numbered = all(image_id.isdecimal() for image_id in self.image_ids)
        return self.image_ids if numbered else [str(path) for path in self.image_paths]

    def fingerprint(self) -> int:
        """CRC-32 of ids, captions and their order; where the files lie does not matter."""
        content = "\0".join((*self.image_ids, *self.captions)).encode() + self.caption_image.tobytes()
        return zlib.crc32(content)


@dataclasses.dataclass(frozen=True)
class Split:
    """A split ready for the encoders.

    captions: the cleaned texts, as student and teacher read them. tokens: int32 [N, L] CLIP ids, padding cut to
    a length bucket. relevance: bool [N, M] or None, whether image m satisfies caption n, annotated or not.
    """

    table: CaptionTable
    captions: list[str]
    tokens: np.ndarray
    relevance: np.ndarray | None


class _Row(NamedTuple):
    where: str  # "row 7" or "images[7]", for messages
    image_id: str
    image_path: Path
    caption: str
    caption_id: int | None


def read_captions(path: str | Path, split: str, *, image_root: str | Path = "") -> CaptionTable:
    """Read one split of a dataset, in the order of the file.

    Args:
      path: a JSON file, or a folder in which the first of `new_{split}.json`, `{split}.json`,
        `dataset*.json` (Karpathy), `*_{split}.json` (ALBEF) and, for 'test', `captions_*.json` (COCO) is taken.
        A file in a one-split layout is read as it is; `split` then only serves messages.
      split: 'train', 'val' or 'test'; Karpathy's 'train' is train and restval together.
      image_root: folder the image paths are relative to; the JSON's own folder if empty.

    Raises:
      InputError: file or split missing or empty, JSON broken, a row of no known layout, an image id with
        two paths, or a caption id given twice.
    """
    file = find_captions(Path(path), split)
    data = _read_json(file)
    root = Path(image_root or file.parent).resolve()
    if isinstance(data, dict) and "annotations" in data and "images" in data:
        rows = _coco_rows(file, data, root)
    elif isinstance(data, dict) and isinstance(data.get("images"), list):
        rows = _karpathy_rows(file, data, split, root)
    elif isinstance(data, list):
        rows = _flat_rows(file, data, root)
    else:
        raise InputError(
            f"{file}: neither a list of rows with 'image_path' (or 'image') and 'caption', "
            "nor a Karpathy file with 'images', nor COCO's with 'images' and 'annotations'"
        )
    return _table(file, split, rows)


def clean_caption(text: str) -> str:
    """The reference's caption cleaning (its dataset/utils.py:4): lower case, punctuation to spaces, 64 words.

    A caption of nothing but punctuation is kept as written (stripped), where the reference raises.
    """
    return _cleaned(text) or text.strip()


def clean_captions(captions: list[str]) -> list[str]:
    """`clean_caption` of each; says once how many had nothing left and were kept as written."""
    cleaned = [_cleaned(caption) for caption in captions]
    if empty := cleaned.count(""):
        logging.warning("%d of %d captions are empty after cleaning; kept as written", empty, len(captions))
    return [clean or raw.strip() for clean, raw in zip(cleaned, captions, strict=True)]


def _cleaned(text: str) -> str:
    text = text.lower().translate(_PUNCTUATION_TO_SPACE).replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:MAX_WORDS])


def find_captions(path: Path, split: str) -> Path:
    """The file that holds the captions of a split; see `read_captions`. Raises InputError where there is none."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder or JSON file; point data.path at your captions (see README)"
        )
    patterns = [f"new_{split}.json", f"{split}.json", "dataset*.json", f"*_{split}.json"]
    if split == "test":
        patterns.append("captions_*.json")
    for pattern in patterns:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise InputError(f"{path}: which of {names} is meant? Point data.path at that file")
        if found:
            return found[0]
    for file in sorted(path.glob("captions_*.json")):
        raise InputError(
            f"{file}: COCO's own files do not say which images are of split '{split}'; "
            f"call the one that is meant {split}.json, or get Karpathy's dataset_coco.json"
        )
    raise InputError(
        f"{path}: no captions of split '{split}' (looked for {', '.join(patterns)}); "
        "the README says which files to download, or how to write your own"
    )


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))  # Windows editors write a BOM
    except (ValueError, RecursionError) as error:  # also a UnicodeDecodeError
        raise InputError(f"{file}: not valid JSON ({error})") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error


def _flat_rows(file: Path, data: list[Any], root: Path) -> Iterator[_Row]:
    for number, row in enumerate(data):
        where = f"row {number}"
        path_key = "image" if isinstance(row, dict) and "image_path" not in row else "image_path"
        path = _field(file, where, row, path_key, str)
        captions = _field(file, where, row, "caption", str, list)
        # Only ALBEF's rows may do without an id: there the path is the id.
        image_id = path if path_key == "image" and "image_id" not in row else None
        image_id = image_id or str(_field(file, where, row, "image_id", str, int))
        if isinstance(captions, str):
            yield _Row(where, image_id, root / path, captions, _caption_id(file, where, row, "caption_id"))
        elif captions and all(isinstance(caption, str) for caption in captions):
            yield from (_Row(where, image_id, root / path, caption, None) for caption in captions)
        else:
            raise InputError(f"{file}: {where}: 'caption' must be a string or a list of at least one string")


def _karpathy_rows(file: Path, data: dict[str, Any], split: str, root: Path) -> Iterator[_Row]:
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
            yield _Row(where, image_id, path, caption, _caption_id(file, where, sentence, "sentid"))


def _karpathy_path(root: Path, filepath: str, filename: str) -> Path:
    """COCO's entries name their folder; Flickr30K's do not, and live in `flickr30k-images` or in the root."""
    if filepath:
        return root / filepath / filename
    flickr = root / "flickr30k-images" / filename
    return root / filename if not flickr.exists() and (root / filename).exists() else flickr


def _coco_rows(file: Path, data: dict[str, Any], root: Path) -> Iterator[_Row]:
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
        yield _Row(where, str(image_id), paths[image_id], caption, _caption_id(file, where, row, "id"))


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


def _table(file: Path, split: str, rows: Iterable[_Row]) -> CaptionTable:
    image_number: dict[str, int] = {}
    image_paths: list[Path] = []
    captions: list[str] = []
    caption_image: list[int] = []
    row_of_id: dict[int, str] = {}
    for row in rows:
        number = image_number.setdefault(row.image_id, len(image_paths))
        if number == len(image_paths):
            image_paths.append(row.image_path)
        elif image_paths[number] != row.image_path:
            raise InputError(
                f"{file}: {row.where}: image_id '{row.image_id}' has two paths, "
                f"{image_paths[number]} and {row.image_path}"
            )
        if row.caption_id is not None:
            if row.caption_id in row_of_id:
                first = row_of_id[row.caption_id]
                raise InputError(
                    f"{file}: {row.where}: caption_id {row.caption_id} is already that of {first}"
                )
            row_of_id[row.caption_id] = row.where
        try:
            row.caption.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{file}: {row.where}: the caption is not valid Unicode ({error.reason})"
            ) from error
        captions.append(row.caption)
        caption_image.append(number)
    if not captions:
        raise InputError(f"{file}: no captions of split '{split}'")
    return CaptionTable(
        image_ids=list(image_number),
        image_paths=image_paths,
        captions=captions,
        caption_image=np.array(caption_image, np.int32),
        caption_ids=np.array(list(row_of_id), np.int64) if len(row_of_id) == len(captions) else None,
    )

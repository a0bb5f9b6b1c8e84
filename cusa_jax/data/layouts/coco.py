"""COCO's own files: {"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}.

Images without a caption are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row, caption_id, field
from cusa_jax.errors import InputError


def read(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    if isinstance(file.json, dict) and "annotations" in file.json and "images" in file.json:
        return _rows(file.path, file.json, root)
    return None


def _rows(file: Path, data: dict[str, Any], root: Path) -> Iterator[Row]:
    paths: dict[int, Path] = {}
    for number, image in enumerate(field(file, "the file", data, "images", list)):
        where = f"images[{number}]"
        path = _path(root, field(file, where, image, "file_name", str))
        if paths.setdefault(field(file, where, image, "id", int), path) != path:
            raise InputError(f"{file}: {where}: 'id' {image['id']} is already that of another image")
    for number, row in enumerate(field(file, "the file", data, "annotations", list)):
        where = f"annotations[{number}]"
        image_id = field(file, where, row, "image_id", int)
        if image_id not in paths:
            raise InputError(f"{file}: {where}: 'image_id' {image_id} is that of none of 'images'")
        caption = field(file, where, row, "caption", str)
        yield Row(where, str(image_id), paths[image_id], caption, caption_id(file, where, row, "id"))


def _path(root: Path, name: str) -> Path:
    """COCO_val2014_….jpg lies in the root, or in its folder `val2014`."""
    folder = re.match(r"COCO_(\w+)_\d+\.", name)
    return root / folder[1] / name if folder and not os.path.exists(root / name) else root / name


def _names(split: str) -> tuple[str, ...]:
    return ("captions_val*.json",) if split == "test" else ()


def _hint(folder: Path, split: str) -> str:
    if not (files := sorted(folder.glob("captions_*.json"))):
        return ""
    return (
        f"{files[0]}: COCO's own files do not say which images are of split '{split}'; "
        f"call the one that is meant {split}.json, or get Karpathy's dataset_coco.json"
    )


LAYOUT = Layout(
    holds="COCO's with 'images' and 'annotations'",
    names=_names,
    read=read,
    hint=_hint,
)

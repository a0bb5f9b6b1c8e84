"""Karpathy's file: {"images": [{"filename", "split", "sentences": [{"raw", "sentid"}], …}]}, all splits in one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row, caption_id, field
from cusa_jax.errors import InputError

_SPLITS = {"train": ("train", "restval")}


def read(file: CaptionFile, split: str, root: Path) -> Iterator[Row] | None:
    data = file.json
    if isinstance(data, dict) and isinstance(data.get("images"), list) and "annotations" not in data:
        return _rows(file.path, data["images"], split, root)
    return None


def _rows(file: Path, images: list[Any], split: str, root: Path) -> Iterator[Row]:
    wanted = _SPLITS.get(split, (split,))
    for number, image in enumerate(images):
        where = f"images[{number}]"
        if field(file, where, image, "split", str) not in wanted:
            continue
        filename = field(file, where, image, "filename", str)
        filepath = field(file, where, image, "filepath", str) if "filepath" in image else ""
        path = _path(root, filepath, filename)
        image_id = str(image["cocoid"]) if "cocoid" in image else Path(filename).stem
        sentences = field(file, where, image, "sentences", list)
        if not sentences:
            raise InputError(f"{file}: {where}: 'sentences' is empty; remove the image or give it a caption")
        for sentence in sentences:
            caption = field(file, where, sentence, "raw", str)
            yield Row(where, image_id, path, caption, caption_id(file, where, sentence, "sentid"))


def _path(root: Path, filepath: str, filename: str) -> Path:
    """COCO's entries name their folder; Flickr30K's do not, and live in `flickr30k-images` or in the root."""
    if filepath:
        return root / filepath / filename
    flickr, flat = root / "flickr30k-images" / filename, root / filename
    # os.path's says no where the name can be nobody's, such as one of over 255 bytes
    return flat if not os.path.exists(flickr) and os.path.exists(flat) else flickr


LAYOUT = Layout(
    holds="a Karpathy file with 'images'",
    names=lambda split: ("dataset*.json",),
    read=read,
)

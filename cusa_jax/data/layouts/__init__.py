"""Layouts of captions and images on a disk: which there are, where a split's captions lie, and their rows.

A program of one's own may add to `LAYOUTS`. Entries are looked for, and offered a file to read, in their order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cusa_jax.data.layouts import arrow, coco, flat, json_lines, karpathy, prepared, scan, shards, table
from cusa_jax.data.layouts.layout import CaptionFile, Layout, Row, caption_id, field
from cusa_jax.errors import InputError

LAYOUTS: dict[str, Layout] = {
    "prepared": prepared.LAYOUT,
    # Before Karpathy's, to whose file name that of a saved dataset's description is alike.
    "arrow": arrow.LAYOUT,
    "reference": flat.REFERENCE,
    "karpathy": karpathy.LAYOUT,
    "albef": flat.ALBEF,
    "coco": coco.LAYOUT,
    "table": table.LAYOUT,
    "json_lines": json_lines.LAYOUT,
    "shards": shards.LAYOUT,
    "scan": scan.LAYOUT,
}

__all__ = ["LAYOUTS", "CaptionFile", "Layout", "Row", "caption_id", "field", "find_captions", "read_rows"]


def find_captions(path: Path, split: str) -> Path:
    """The file that holds the captions of a split.

    path: that file, or a folder, in which the first of the names that the layouts look for is taken.
    Raises InputError where there is none, or two that fit as well.
    """
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise InputError(
            f"{path}: no such folder or file of captions; point data.path at your captions (see docs/data.md)"
        )
    patterns = [pattern for layout in LAYOUTS.values() for pattern in layout.names(split)]
    for pattern in patterns:
        files = sorted(path.glob(pattern))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise InputError(f"{path}: which of {names} is meant? Point data.path at that file")
        if files:
            return files[0]
    if hints := list(filter(None, (layout.hint(path, split) for layout in LAYOUTS.values()))):
        raise InputError(hints[0])
    raise InputError(
        f"{path}: no captions of split '{split}' (looked for {', '.join(patterns)}); "
        "docs/data.md says how they may lie"
    )


def read_rows(file: Path, split: str, root: Path) -> tuple[Layout, Iterator[Row]]:
    """The layout of a file, and one row per caption of the split, in the order of the file.

    root: what image paths are relative to. Raises InputError for a broken file and for one of no layout, and while
    it goes for a row that is not what it must be.
    """
    content = CaptionFile(file)
    for layout in LAYOUTS.values():
        if (rows := layout.read(content, split, root)) is not None:
            return layout, rows
    kinds = list(dict.fromkeys(layout.holds for layout in LAYOUTS.values()))
    raise InputError(f"{file}: neither {', nor '.join(kinds)}")

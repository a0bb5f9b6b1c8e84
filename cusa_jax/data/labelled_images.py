"""Images with class labels, from the public folder layouts of CUB, SOP, In-Shop and iNaturalist.

Each dataset's files may lie in its own folder or, as in the CUSA reference (dataset_evalimg/), one level deeper:
`FOLDER/CUB_200_2011/images` as well as `FOLDER/images`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from cusa_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """paths: n image files; whether they exist is found out when they are read. labels: int32 [n]."""

    paths: list[Path]
    labels: np.ndarray


def read_cub(folder: str | Path) -> LabelledImages:
    """Caltech-UCSD Birds 200-2011: the images of classes 101 to 200, in order of class and file name.

    Layout: `[CUB_200_2011/]images/001.Black_footed_Albatross/*.jpg`, 200 class folders.
    """
    images = _find(folder, "images", "CUB_200_2011", what="the 200 class folders of CUB-200-2011")
    classes = sorted(path for path in images.iterdir() if path.is_dir())
    if len(classes) != 200:
        raise InputError(f"{images}: holds {len(classes)} class folders instead of CUB's 200")
    rows = [
        (path, number)
        for number, folder in enumerate(classes[100:], start=100)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in (".jpg", ".jpeg", ".png") and not path.name.startswith("._")
    ]
    return _images(rows, images)


def read_sop(folder: str | Path) -> LabelledImages:
    """Stanford Online Products, test classes. Layout: `[Stanford_Online_Products/]Ebay_test.txt` and the images that
    it names: a header, then `image_id class_id super_class_id path`."""
    table = _find(folder, "Ebay_test.txt", "Stanford_Online_Products", what="the test list of SOP")
    rows = [
        (table.parent / path, _number(table, line, label))
        for line, (_, label, _, path) in _rows(table, columns=4, skip=1)
    ]
    return _images(rows, table)


def read_inshop(folder: str | Path) -> tuple[LabelledImages, LabelledImages]:
    """In-Shop Clothes Retrieval (DeepFashion): query and gallery images.

    Layout: `Eval/list_eval_partition.txt` (a count, a header, then `image_name item_id evaluation_status`) with the
    images under `Img/`, or beside `Eval`.
    """
    table = _find(folder, "list_eval_partition.txt", "Eval", "Anno", what="the partition of In-Shop")
    base = table.parent.parent if table.parent.name in ("Eval", "Anno") else table.parent
    images = base / "Img" if (base / "Img").is_dir() else base
    parts: dict[str, list[tuple[Path, int]]] = {"query": [], "gallery": []}
    for line, (name, item, status) in _rows(table, columns=3, skip=2):
        if status in parts:
            parts[status].append((images / name, _number(table, line, item.rpartition("_")[2])))
    return _images(parts["query"], table), _images(parts["gallery"], table)


def read_inat(folder: str | Path) -> LabelledImages:
    """iNaturalist 2018, the test half of ROADMAP's split by species.

    Layout: `Inat_dataset_splits/Inaturalist_test_set1.txt`, a path `train_val2018/SUPER/CATEGORY/FILE.jpg` a line,
    relative to the folder. The category is the label.
    """
    table = _find(
        folder, "Inaturalist_test_set1.txt", "Inat_dataset_splits", what="the test list of iNaturalist 2018"
    )
    base = table.parent.parent if table.parent.name == "Inat_dataset_splits" else table.parent
    rows = [
        (base / path, _number(table, line, Path(path).parent.name))
        for line, (path,) in _rows(table, columns=1, skip=0)
    ]
    return _images(rows, table)


def _find(folder: str | Path, name: str, *below: str, what: str) -> Path:
    candidates = [Path(folder, *parts, name) for parts in ((), *((part,) for part in below))]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    places = " or ".join(str(candidate) for candidate in candidates)
    raise InputError(f"{what} should be {places}, and is not there")


def _rows(table: Path, *, columns: int, skip: int) -> list[tuple[int, list[str]]]:
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table}: not a readable text file ({error})") from error
    rows = [(n, line.split()) for n, line in enumerate(lines, start=1) if n > skip and line.strip()]
    for number, row in rows:
        if len(row) != columns:
            raise InputError(f"{table}: line {number} has {len(row)} columns instead of {columns}")
    return rows


def _number(table: Path, line: int, text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"{table}: line {line}: {text!r} should be the number of a class")
    return int(text)


def _images(rows: list[tuple[Path, int]], source: Path) -> LabelledImages:
    if not rows:
        raise InputError(f"{source}: names no test image")
    return LabelledImages([path for path, _ in rows], np.array([label for _, label in rows], np.int32))

"""Images by class, for zero-shot classification, with the names of the classes and the sentences to put them in.

    FOLDER/CLASS/*.jpg             a folder for each class, as ImageNet's validation set is unpacked
    FOLDER/labels.csv, or a .csv   columns `filename` and `label`; paths relative to the file

Beside them, where they are wanted: `classes.csv` with columns `label` and `name`, for labels that are no words
('n01440764', 'tench'), and `templates.txt`, a sentence a line with {} for the name.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np

from cusa_jax.data.images import image_suffixes
from cusa_jax.data.labelled_images import LabelledImages
from cusa_jax.errors import InputError, listed

TEMPLATE = "a photo of a {}"
LABELS, NAMES, TEMPLATES = "labels.csv", "classes.csv", "templates.txt"


@dataclasses.dataclass(frozen=True)
class Classes:
    """images: with labels of 0 … C-1. names: C, in the order of their labels. templates: sentences with {}.

    own: as `splits.CaptionedImages`.
    """

    images: LabelledImages
    names: list[str]
    templates: list[str]
    own: bool = False

    @property
    def prompts(self) -> list[list[str]]:
        """The sentences of each class."""
        return [[template.replace("{}", name) for template in self.templates] for name in self.names]


def has_labels(path: Path) -> bool:
    """Whether `path` is a table of labels, or a folder with one."""
    if path.is_file():
        return path.suffix.lower() == ".csv" and {"filename", "label"} <= set(_header(path))
    return (path / LABELS).is_file()


def has_class_folders(path: Path) -> bool:
    """Whether `path` holds folders of images; those of captions may lie in folders, too."""
    return bool(_class_folders(path))


def read_classes(path: Path) -> Classes:
    """Raises InputError where there are no images by class, a file of them is missing, or a table is broken."""
    folder = path.parent if path.is_file() else path
    table = path if path.is_file() else path / LABELS
    rows = _listed(table) if table.is_file() else _in_folders(path)
    if missing := [str(image) for image, _ in rows if not image.is_file()]:
        raise InputError(f"{table}: {len(missing)} of {len(rows)} images not found: {listed(missing)}")
    labels = sorted({label for _, label in rows})
    number = {label: n for n, label in enumerate(labels)}
    images = LabelledImages(
        [image for image, _ in rows], np.array([number[label] for _, label in rows], np.int32)
    )
    return Classes(images, _names(folder / NAMES, labels), _templates(folder / TEMPLATES))


def _in_folders(path: Path) -> list[tuple[Path, str]]:
    rows = [(image, folder.name) for folder in _class_folders(path) for image in _images(folder)]
    if not rows:
        raise InputError(
            f"{path}: no images by class: neither {LABELS}, nor a folder of images for each class"
        )
    return rows


def _class_folders(path: Path) -> list[Path]:
    folders = sorted(path.iterdir()) if path.is_dir() else []
    return [folder for folder in folders if folder.is_dir() and _images(folder)]


def _images(folder: Path) -> list[Path]:
    suffixes = image_suffixes()
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in suffixes and not file.name.startswith(".")
    )


def _listed(table: Path) -> list[tuple[Path, str]]:
    rows = [(table.parent / name, label) for name, label in _rows(table, ("filename", "label"))]
    if not rows:
        raise InputError(f"{table}: names no image")
    return rows


def _names(file: Path, labels: list[str]) -> list[str]:
    """Of each label; its own words where there is no file."""
    if not file.is_file():
        return [label.replace("_", " ") for label in labels]
    named = dict(_rows(file, ("label", "name")))
    if unnamed := [label for label in labels if not named.get(label, "").strip()]:
        raise InputError(f"{file}: {len(unnamed)} classes have no name: {listed(unnamed)}")
    return [named[label] for label in labels]


def _templates(file: Path) -> list[str]:
    if not file.is_file():
        return [TEMPLATE]
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a readable text file ({error})") from error
    if wrong := [line for line in lines if "{}" not in line]:
        raise InputError(
            f"{file}: a template has {{}} where the name of the class goes, and '{wrong[0]}' has none"
        )
    if not lines:
        raise InputError(f"{file}: no templates in it; remove it for '{TEMPLATE}'")
    return lines


def _rows(table: Path, columns: tuple[str, str]) -> list[tuple[str, str]]:
    """The two columns of every row. Raises InputError where one is absent, or an entry of it is empty."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, strict=True)
            if absent := set(columns) - set(reader.fieldnames or ()):
                raise InputError(
                    f"{table}: the header names no column '{min(absent)}'; it needs {listed(columns)}"
                )
            rows = [(reader.line_num, row[columns[0]], row[columns[1]]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a readable table ({error}); save it as CSV in UTF-8") from error
    if empty := [line for line, first, second in rows if not (first and second)]:
        raise InputError(f"{table}: line {empty[0]}: needs both {columns[0]} and {columns[1]}")
    return [(first, second) for _, first, second in rows]


def _header(table: Path) -> list[str]:
    """The names of a table's columns; [] of what cannot be read."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as text:
            return next(csv.reader(text), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []

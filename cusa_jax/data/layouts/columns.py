"""The columns of layouts that are tables, whatever they are written as: a row for each caption.

image (or image_path, file_name, filepath)  the path of the image's file
caption (or captions, text, title)          what it shows
image_id, caption_id                        optional: ids; without the first, the path is the image's id
split                                       optional: train, val or test, where one file holds all of them
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from cusa_jax.data.layouts.layout import Row, caption_id
from cusa_jax.errors import InputError

OPTIONAL = ("image_id", "caption_id", "split")
_NAMES = {
    "image": ("image", "image_path", "file_name", "filepath"),
    "caption": ("caption", "captions", "text", "title"),
    **{key: (key,) for key in OPTIONAL},
}
SPLITS = {
    "train": "train", "restval": "train", "val": "val", "validation": "val", "dev": "val", "test": "test",
}  # fmt: skip


# Names of files that hold all splits.
_OF_ALL = ("captions", "metadata")


def folders(split: str) -> tuple[str, ...]:
    """The names that a folder of a split may have."""
    return tuple(name for name, ours in SPLITS.items() if ours == split and name != "restval")


def columns(where: object, names: Iterable[str]) -> dict[str, str]:
    """{'image', 'caption' and the optional ones that are there: their names}. Raises InputError for what lacks."""
    by_name = {name.strip().lower(): name for name in names}
    found = {}
    for key, candidates in _NAMES.items():
        named = next((by_name[name] for name in candidates if name in by_name), None)
        if named is not None:
            found[key] = named
        elif key not in OPTIONAL:
            wanted = f"'{candidates[0]}' (or {', '.join(candidates[1:])})"
            raise InputError(f"{where} has no {wanted}; its columns are {', '.join(by_name) or 'none'}")
    return found


def row(
    file: Path, where: str, values: Mapping[str, str], named: Mapping[str, str], split: str, root: Path
) -> Row | None:
    """The caption of one row; None where it is of another split. values: texts by the keys of `columns`.
    named: how the file calls them.

    Raises InputError for an empty image or id, and a split that is none.
    """
    if "split" in values:
        if _split(file, where, values["split"]) != split:
            return None
    elif split != "train" and file.stem in _OF_ALL and file.parent.name not in SPLITS:
        # Those of the training split may be there to be divided.
        raise InputError(
            f"{file}: {where}: has no 'split'; name it, name the files after their splits, or let "
            "config.data.split='90/5/5' divide them"
        )
    for key in ("image", "image_id"):
        if key in values and not values[key]:
            raise InputError(f"{file}: {where}: '{named[key]}' is empty")
    number = caption_id(file, where, dict(values), "caption_id")
    image_id = values.get("image_id", values["image"])
    return Row(where, image_id, root / values["image"], values["caption"], number)


def _split(file: Path, where: str, name: str) -> str:
    if name not in SPLITS:
        raise InputError(f"{file}: {where}: split {name!r} is none of {', '.join(SPLITS)}")
    return SPLITS[name]

"""What of a folder is a photo, and what only looks like one: thumbnails, trash, hidden files, kinds not read here."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path

from cusa_jax.data.images import image_suffixes
from cusa_jax.errors import InputError

# Photos that are not read, unless `image_suffixes` has them too: of phones, of cameras, of programs that edit.
UNREADABLE = frozenset(
    (".heic", ".heif", ".hif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw",
     ".psd", ".xcf", ".svg")
)  # fmt: skip
_THUMBNAILS = ("@eadir", ".thumbnails", ".thumb", ".picasaoriginals")
_TRASH = ("#recycle", "$recycle.bin", "@recycle", ".trash")  # and what begins so: .Trash-1000, .Trashes
_HIDDEN = ("__macosx", "lost+found", "system volume information")

State = tuple[int, int]  # size, and time of the last change in ns


@dataclasses.dataclass(frozen=True)
class Photos:
    """states: of every photo by its name under the folder, as bytes, for names need not be UTF-8.

    left_out: how many others there are, by why: 'hidden', 'thumbnails', 'trash', or their ending ('.heic').
    """

    states: dict[bytes, State]
    left_out: dict[str, int]


def find_photos(folder: Path) -> Photos:
    """All photos under a folder; links to folders are not followed.

    Raises InputError where the folder, or one within it, cannot be read: its photos are not gone.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of photos")
    suffixes = image_suffixes()
    states: dict[bytes, State] = {}
    left_out: collections.Counter[str] = collections.Counter()
    for name, reason in sorted(_files(folder)):
        suffix = Path(name).suffix.lower()
        if suffix not in suffixes | UNREADABLE:
            continue
        if reason := reason or ("" if suffix in suffixes else suffix):
            left_out[reason] += 1
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or a link to nowhere
            stat = (folder / name).stat()
            states[os.fsencode(name)] = stat.st_size, stat.st_mtime_ns
    return Photos(states, dict(left_out))


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """(name under the folder, why it is left out or '') of every file."""
    for parent, _, files in os.walk(folder, onerror=functools.partial(_refuse, folder)):
        within = Path(parent).relative_to(folder).parts
        outer = next(filter(None, map(_reason, within)), "")
        for name in files:
            yield str(Path(*within, name)), outer or _reason(name)


def _refuse(folder: Path, error: OSError) -> None:
    """Folders that are left out need not be readable: a trash is often another user's."""
    if not any(map(_reason, Path(error.filename).relative_to(folder).parts)):
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); make it readable, or move it out"
        )


def _reason(name: str) -> str:
    """Why what is called so, a folder or a file, is left out; '' where it is not."""
    name = name.lower()
    if name in _THUMBNAILS:
        return "thumbnails"
    if name.startswith(_TRASH):
        return "trash"
    return "hidden" if name.startswith(".") or name in _HIDDEN else ""

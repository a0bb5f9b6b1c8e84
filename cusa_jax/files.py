"""Files and folders that appear whole or not at all, and what stands behind a write that failed."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cusa_jax.errors import InputError

# What a disk says that takes no more; other errors of a write are the program's own.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a new path beside `path` to write to; it takes the place of `path` at the end, or goes on an error."""
    fresh = draft_of(path)
    try:
        yield fresh
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def draft_of(path: Path) -> Path:
    """What is written to until `path` is whole. A killed writer leaves it there, and the next one writes over it."""
    return path.with_name(path.name + ".tmp")


def check_empty(folder: Path) -> None:
    """Raises InputError where `folder` is there and holds something, or is a file."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: is there already, and not an empty folder; name another, or remove it")


@contextlib.contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yields a new folder to write to; it becomes `folder` at the end, or goes on an error.

    Raises InputError where it holds something already, which would be taken for a part of what is written.
    """
    check_empty(folder)
    place = folder.absolute()
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as beside:
        fresh = Path(beside) / place.name
        fresh.mkdir()
        yield fresh
        os.replace(fresh, place)


def write_refusal(error: BaseException) -> str:
    """The disk's reason ('No space left on device') where it is behind an exception, '' where another thing is.

    Libraries say it in exceptions of their own, as a cause, or in the text alone.
    """
    pending, seen = [error], set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        text = str(one)
        for number in _REFUSALS:
            if (isinstance(one, OSError) and one.errno == number) or os.strerror(number) in text:
                return os.strerror(number)
        inner = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        pending += [cause for cause in (one.__cause__, one.__context__, *inner) if cause is not None]
    return ""


def shipped(folder: str) -> Path:
    """The project's own 'scripts' or 'configs': within the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    return next(path for path in (package / folder, package.parent / folder) if path.is_dir())

"""One program at a time in a folder: a lock that goes with the process that holds it, however it ends.

The lock is a POSIX record lock (`fcntl.lockf`) on the first byte of a file: the kernel releases it with the process,
a killed one too, and child processes do not inherit it. Over NFS the server keeps it, so that it holds between hosts
(NFSv4, or lockd on NFSv3; Lustre mounted with -o flock). Storage that has no locks is used without, which is said.
The file stays where it is: removing it could take a lock from under another process.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from cusa_jax.distributed import from_first
from cusa_jax.errors import InputError

LOCK = ".lock"  # the usual name, in the folder that is locked
_PATIENCE = 2.0  # seconds in which a killed holder is gone
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_held: set[Path] = set()  # by this process, which its own record locks would not stop


@contextlib.contextmanager
def held(file: Path, what: str) -> Iterator[None]:
    """Holds the lock in `file` for as long as the context lasts; of several processes of a run, the first one does.

    file: made with its folder where it is not there; nothing else may open it. what: is locked, for the message.

    Raises InputError, in every process of the run, where another program holds it, naming host and process, or where
    the file cannot be written.
    """
    descriptors: list[int] = []

    def take() -> str:
        try:
            descriptors.append(_take(file))
        except _Held as error:
            return _refusal(what, error)
        except OSError as error:
            return f"{error.filename or file}: cannot be locked ({error.strerror})"
        return ""

    if refusal := from_first(take):
        raise InputError(refusal)
    try:
        yield
    finally:
        for descriptor in descriptors:
            _held.discard(file.resolve())
            os.close(descriptor)


def check_free(file: Path, what: str) -> None:
    """Raises the InputError of `held` where another program holds the lock; makes nothing."""

    def look() -> str:
        if not file.exists():
            return ""
        try:
            os.close(_take(file))
        except _Held as error:
            return _refusal(what, error)
        except OSError:  # where it cannot be taken, `held` says so
            return ""
        _held.discard(file.resolve())
        return ""

    if refusal := from_first(look):
        raise InputError(refusal)


class _Held(Exception):
    """Another program holds the lock; the message says which."""


def _refusal(what: str, holder: _Held) -> str:
    return f"{what} is in use by {holder}; wait for it to end, or end it"


def _take(file: Path) -> int:
    """The descriptor of the locked file, which is to be closed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.resolve() in _held:
        raise _Held(_described(file))
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _wait_for(descriptor, file)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    _held.add(file.resolve())
    return descriptor


def _wait_for(descriptor: int, file: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                logging.warning("%s: this storage has no locks; start no other program in the folder", file)
                return
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            if time.monotonic() > end:
                raise _Held(_described(file)) from None
            time.sleep(0.1)
        else:
            return


def _described(file: Path) -> str:
    """Who holds it, as it wrote when it began."""
    try:
        host, process = file.read_bytes()[:300].decode(errors="replace").split()
    except (OSError, ValueError):
        return "another program"
    return f"process {process} on {host}"

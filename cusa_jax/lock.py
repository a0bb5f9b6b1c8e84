"""One writer at a time: a lock that the system takes back from a process that ends, however it ends."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from cusa_jax.errors import InputError

# What a file system answers that has no locks.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock file `path`, which stays when the lock is given back; over NFS for all hosts.

    A file system without locks is warned of, once a lock. Raises InputError(busy) where another process holds it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(busy) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            logging.warning("%s: this file system has no locks; start no second run here", path)
        yield

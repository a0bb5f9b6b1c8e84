"""Compiled programs kept in a folder, so that what starts again does not compile again: JAX's compilation cache.

What is kept is machine code, so only what this user's processes wrote on this kind of machine is loaded. Every
program has a seal beside it, an HMAC-SHA256 under a key of the user's own outside the folder, made as the program is
written and compared as it is read. What is damaged, half written, of another machine or from a folder that somebody
else filled has none that fits: it is removed and compiled again.
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import os
import platform
import re
import secrets
import stat
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax._src import compilation_cache as caching  # where JAX opens its cache has no public name
from jax.experimental.compilation_cache import compilation_cache

from cusa_jax.distributed import from_first

_PROGRAM, _SEAL = "-cache", "-seal"
_KEY_BYTES = 32


def keep_compiled(folder: Path) -> None:
    """Uses `folder` from here on, unless the user set another place; every process of a run calls it.

    A program is kept, with its seal, when it is compiled. A folder that other users can write to is not used.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = folder.absolute()
    if from_first(lambda: _prepared(folder)):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Smaller programs are compiled as fast as they are read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()


def _prepared(folder: Path) -> str:
    """'', or why the folder is not used. The first process's: the others read what it leaves, and write nothing."""
    if not hasattr(caching, "get_file_cache"):
        return "a JAX that opens its cache elsewhere"
    try:
        key = _key()
        # Whatever the umask is, not for a group to write to.
        folder.mkdir(0o755, parents=True, exist_ok=True)
        if refusal := _refusal(folder.stat()):
            logging.warning("%s: compiled programs are neither kept nor used, %s", folder, refusal)
            return refusal
        _remove_unsealed(folder, key)
    except OSError as error:
        # Compiling again is no reason to fail: what else cannot be written says so where it matters.
        return str(error)
    _seal_what_is_written(folder, key)
    return ""


def _refusal(found: os.stat_result) -> str:
    if found.st_uid != os.getuid():
        return "the folder is another user's; remove it, and one of yours is made"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        return "other users can write to the folder; remove it, or forbid that with chmod go-w"
    return ""


def _remove_unsealed(folder: Path, key: bytes) -> None:
    for program in folder.glob(f"*{_PROGRAM}"):
        if not _is_sealed(program, program.read_bytes(), key):
            _remove(program)


def _seal_what_is_written(folder: Path, key: bytes) -> None:
    open_cache = caching.get_file_cache

    def opened(path: str) -> Any:
        found = open_cache(path)
        return (_Sealed(found[0], folder, key), path) if found and path == str(folder) else found

    caching.get_file_cache = opened


class _Sealed:
    """JAX's cache of `folder`, in which nothing is found but what is sealed."""

    def __init__(self, inner: Any, folder: Path, key: bytes):
        self._inner, self._path, self._key = inner, folder, key

    def get(self, key: str) -> bytes | None:
        content = self._inner.get(key)
        if content is None or _is_sealed(program := self._program(key), content, self._key):
            return content
        # It came after the others were looked at.
        _remove(program)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Seals what was compiled here, whatever lies there by now."""
        if not (program := self._program(key)).exists():
            self._inner.put(key, value)
            _seal_of(program).write_bytes(_sealed(program.name, value, self._key))

    def _program(self, key: str) -> Path:
        return self._path / f"{key}{_PROGRAM}"


def _is_sealed(program: Path, content: bytes, key: bytes) -> bool:
    seal = _seal_of(program)
    return seal.is_file() and hmac.compare_digest(seal.read_bytes(), _sealed(program.name, content, key))


def _seal_of(program: Path) -> Path:
    return program.with_name(program.name.removesuffix(_PROGRAM) + _SEAL)


def _remove(program: Path) -> None:
    program.unlink(missing_ok=True)
    _seal_of(program).unlink(missing_ok=True)


def _sealed(name: str, content: bytes, key: bytes) -> bytes:
    """Of the program's name too: it must not answer for another."""
    return hmac.digest(key, f"{_machine()}\0{name}\0".encode() + content, "sha256")


@functools.cache
def _machine() -> str:
    """JAX, and what instructions the processor has: XLA compiles for the one at hand, and does not say so."""
    try:
        flags = re.search(r"^(flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        flags = None
    return f"{jax.__version__} {platform.machine()} {platform.processor()} {flags[2] if flags else ''}"


def _key() -> bytes:
    """The user's, made when first needed. Raises OSError where it cannot be kept."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = home / "cusa_jax" / "compiled.key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        # Of several processes one is the first; all go on with its key.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise OSError(f"{path} is no key")
    return key

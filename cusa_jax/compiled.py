"""Compiled programs kept in a folder, so that what starts again does not compile again: JAX's compilation cache.

What is kept is machine code, so only what this user's processes wrote on this kind of machine is loaded. Every
program has a seal beside it, an HMAC-SHA256 under a key of the user's own outside the folder. What is damaged, half
written, of another machine or from a folder that somebody else filled has none that fits: it is removed and compiled
again.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hmac
import os
import platform
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from cusa_jax.distributed import is_first, wait_for_all

_PROGRAM, _SEAL = "-cache", "-seal"
_KEY_BYTES = 32


def keep_compiled(folder: Path) -> Callable[[], None]:
    """Uses `folder` from here on, unless the user set another place; every process of a run calls it.

    Returns what seals the programs compiled so far; at the end of the process it is called anyway.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return lambda: None
    try:
        key = _key()
        if is_first():
            folder.mkdir(parents=True, exist_ok=True)
            _remove_unsealed(folder, key)
    except OSError:
        # Compiling again is no reason to fail: what else cannot be written says so where it matters.
        return lambda: None
    wait_for_all("what was compiled before is checked")
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    # Smaller programs are compiled as fast as they are read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()
    seal = functools.partial(_seal_new, folder, key)
    atexit.register(seal)
    return seal


def _seal_new(folder: Path, key: bytes) -> None:
    """Only this process's own: a program that had a seal before keeps it."""
    if not is_first():
        return
    try:
        for program in folder.glob(f"*{_PROGRAM}"):
            if not (seal := _seal_of(program)).exists():
                seal.write_bytes(_sealed(program, key))
    except OSError:
        pass  # a full disk, or a folder that is gone: it is compiled again


def _remove_unsealed(folder: Path, key: bytes) -> None:
    for program in folder.glob(f"*{_PROGRAM}"):
        seal = _seal_of(program)
        if not (seal.is_file() and hmac.compare_digest(seal.read_bytes(), _sealed(program, key))):
            program.unlink(missing_ok=True)
            seal.unlink(missing_ok=True)


def _seal_of(program: Path) -> Path:
    return program.with_name(program.name.removesuffix(_PROGRAM) + _SEAL)


def _sealed(program: Path, key: bytes) -> bytes:
    """Of the program's name too: it must not answer for another."""
    about = f"{_machine()}\0{program.name}\0".encode()
    return hmac.digest(key, about + program.read_bytes(), "sha256")


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

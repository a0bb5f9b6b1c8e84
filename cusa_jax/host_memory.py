"""Memory of a small model's step on CPUs is kept for the next one, where the C library would give it back.

XLA allocates what a step needs and frees it after the step. glibc maps large pieces anew each time, and the kernel
clears every page again: a sixth of the processor time of a small model. Of a large one it is a small part, and pieces
of gigabytes do not fit into the gaps that others left: the arena grew to more than twice the memory, for nothing.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Iterable

# <malloc.h>
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
# glibc's own: the largest threshold that it takes, and how many pieces it maps by themselves.
_LARGEST_THRESHOLD, _MAPPED = 1 << 25, 1 << 16
# Bytes of parameters and optimiser state above which a model is large.
_LARGE = 1 << 29


def keep_freed() -> None:
    """Tells glibc's malloc to keep what is freed; before anything starts threads, for each takes an arena of its own.

    Nothing happens with another C library, where JAX may find a GPU or TPU (their memory is their own), and where the
    user told malloc something already, by GLIBC_TUNABLES or MALLOC_….
    """
    # All of it in the one arena that grows without bound; nothing mapped by itself; no end of it given back.
    _tell(((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1)))


def give_back_of(trained: int) -> None:
    """Has the large pieces of a step given back again, where `trained`, the bytes of a training's state, are many."""
    if trained > _LARGE:
        _tell(((_MMAP_THRESHOLD, _LARGEST_THRESHOLD), (_MMAP_MAX, _MAPPED)))


def _tell(options: Iterable[tuple[int, int]]) -> None:
    told = any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ)
    if told or not _on_cpus() or not (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        return
    for option, value in options:
        mallopt(option, value)


def _on_cpus() -> bool:
    """Whether JAX has nothing but CPUs to run on, known without starting it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))

"""Memory of a step on CPUs is kept for the next one, where the C library would give it back to the system.

XLA allocates what a step needs, up to gigabytes, and frees it after the step. glibc maps large pieces anew each time,
and the kernel clears every page again: a sixth of the processor time of a small model.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os

# <malloc.h>
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed() -> None:
    """Tells glibc's malloc to keep what is freed; before anything starts threads, for each takes an arena of its own.

    Nothing happens with another C library, where JAX may find a GPU or TPU (their memory is their own), and where the
    user told malloc something already, by GLIBC_TUNABLES or MALLOC_….
    """
    told = any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ)
    if told or not _on_cpus() or not (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        return
    # All of it in the one arena that grows without bound; nothing mapped by itself; no end of it given back.
    for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(option, value)


def _on_cpus() -> bool:
    """Whether JAX has nothing but CPUs to run on, known without starting it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))

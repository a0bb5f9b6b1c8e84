"""Page faults of memory that is taken and freed again and again, as XLA does in every step; in own processes."""

import os
import platform
import subprocess
import sys

import pytest

ROUNDS, BYTES = 10, 1 << 26
PROGRAM = f"""
import ctypes, resource, sys
from cusa_jax.host_memory import give_back_of, keep_freed
keep_freed()
give_back_of(int(sys.argv[1]))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    taken = libc.malloc({BYTES})
    libc.memset(taken, 1, {BYTES})
    libc.free(taken)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(trained=1 << 20, **told):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(trained)],
        env=environment | told, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_on_cpus_a_small_model_s_memory_is_cleared_once_unless_the_user_or_an_accelerator_has_a_say():
    pages = BYTES // os.sysconf("SC_PAGE_SIZE")
    assert faults(JAX_PLATFORMS="cpu") < 2 * pages
    assert faults(trained=1 << 30, JAX_PLATFORMS="cpu") > (ROUNDS - 1) * pages
    for told in ({"JAX_PLATFORMS": "cuda"}, {"JAX_PLATFORMS": "cpu", "MALLOC_TOP_PAD_": "131072"}):
        assert faults(**told) > (ROUNDS - 1) * pages

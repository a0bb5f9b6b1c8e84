"""Compiled programs are kept and used again, and nothing is loaded that this user's processes did not write."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import jax
from jax import monitoring
from cusa_jax.compiled import keep_compiled
found = []
monitoring.register_event_listener(lambda name, **_: found.append(name.rpartition("/")[2]))
jax.jit(lambda x: x + 1)(1.0)  # something is compiled before a folder is known
keep_compiled(Path(sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(float(jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.ones((8, 8)))), found.count("cache_hits"))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")

    def run() -> int:
        """How many programs were found; the result is the same anyway."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "kept")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Traceback" not in done.stderr, done.stderr
        result, hits = done.stdout.split()
        assert float(result) == 512
        return int(hits)

    return run


def test_programs_are_found_again_unless_damaged_or_somebody_elses(program, tmp_path):
    kept = tmp_path / "kept"
    assert program() == 0
    programs = sorted(kept.glob("*-cache"))
    assert programs
    assert program() == len(programs)
    # One flipped bit, and one half written.
    damaged = bytearray(programs[0].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    programs[0].write_bytes(damaged)
    assert program() == len(programs) - 1
    assert program() == len(programs)
    programs[0].write_bytes(programs[0].read_bytes()[:100])
    assert program() == len(programs) - 1
    # A folder that another user filled: all its seals are of another key.
    (tmp_path / "state" / "cusa_jax" / "compiled.key").write_bytes(bytes(32))
    assert program() == 0
    assert program() == len(programs)


def test_what_is_not_sealed_is_not_loaded(program, tmp_path):
    program()
    for seal in (tmp_path / "kept").glob("*-seal"):
        seal.unlink()
    assert program() == 0


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_the_key_is_the_users_alone(program, tmp_path):
    program()
    assert (tmp_path / "state" / "cusa_jax" / "compiled.key").stat().st_mode & 0o077 == 0


def test_without_a_place_for_the_key_it_compiles(program, tmp_path):
    (tmp_path / "state").write_text("a file")
    assert program() == 0
    assert not (tmp_path / "kept").exists()

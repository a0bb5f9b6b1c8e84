"""Compiled programs are kept and used again, and nothing is loaded that this user's processes did not write."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, shutil, sys
from pathlib import Path
import jax
from jax import monitoring
from cusa_jax.compiled import keep_compiled
found, kept = [], Path(sys.argv[1])
monitoring.register_event_listener(lambda name, **_: found.append(name.rpartition("/")[2]))
jax.jit(lambda x: x + 1)(1.0)  # something is compiled before a folder is known
{before}
keep_compiled(kept)
{after}
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(float(jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.ones((8, 8)))), found.count("cache_hits"), flush=True)
{end}
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")

    def run(said: str = "", **lines: str) -> int:
        """How many programs were found; the result is the same anyway. said: on one line of stderr, the only one."""
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                PROGRAM.format(**{"before": "", "after": "", "end": ""} | lines),
                str(tmp_path / "kept"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") == bool(said)
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


def test_what_others_put_there_meanwhile_is_neither_loaded_nor_sealed(program, tmp_path):
    kept, foreign = tmp_path / "kept", tmp_path / "foreign"
    program()
    for seal in kept.glob("*-seal"):
        seal.unlink()
    kept.rename(foreign)
    programs = list(foreign.iterdir())
    (foreign / "jit_other-0-cache").write_bytes(programs[0].read_bytes())
    assert program(after=f"shutil.copytree({str(foreign)!r}, kept, dirs_exist_ok=True)") == 0
    assert (kept / "jit_other-0-cache").exists()
    assert not (kept / "jit_other-0-seal").exists()
    # What was compiled in place of the others is kept.
    assert program() == len(programs)
    assert not (kept / "jit_other-0-cache").exists()


def test_a_killed_process_leaves_its_programs_and_a_folder_within_another_changes_nothing(program, tmp_path):
    assert program(after="keep_compiled(kept / 'run')", end="os._exit(0)") == 0
    assert program() == len(list((tmp_path / "kept").glob("*-cache"))) > 0
    assert not (tmp_path / "kept" / "run").exists()


def test_a_folder_that_others_write_to_is_not_used(program, tmp_path):
    kept = tmp_path / "kept"
    assert program(before="os.umask(0)") == 0
    count = len(list(kept.glob("*-cache")))
    for mode in (0o775, 0o757):
        kept.chmod(mode)
        assert (
            program(said="kept: compiled programs are neither kept nor used, other users can write to the")
            == 0
        )
    kept.chmod(0o1777)
    assert program() == count > 0
    kept.chmod(0o755)
    assert program(said="the folder is another user's; remove it", before="os.getuid = lambda: -1") == 0


def test_the_key_is_the_users_alone(program, tmp_path):
    program()
    assert (tmp_path / "state" / "cusa_jax" / "compiled.key").stat().st_mode & 0o077 == 0


def test_without_a_place_for_the_key_it_compiles(program, tmp_path):
    (tmp_path / "state").write_text("a file")
    assert program() == 0
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("kept", [True, False])
def test_controls_keep_programs_unless_told_not_to(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    code = (
        "import runpy, sys\nfrom cusa_jax.controls import runs\nruns.run = lambda *_: False\n"
        "sys.argv.pop(0)\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    flags = (f"--workdir={tmp_path / 'controls'}", "--config=configs/demo.py", f"--config.compiled={kept}")
    subprocess.run([sys.executable, "-c", code, "scripts/controls.py", *flags], check=True, cwd=ROOT)
    assert (tmp_path / "controls" / "compiled").exists() == kept

"""A lock keeps every other program out, and goes with the process that holds it, however that ends."""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from cusa_jax import lock
from cusa_jax.errors import InputError

HOLD = """
import sys, time
from pathlib import Path
from cusa_jax.lock import held
with held(Path(sys.argv[1]), "the folder"):
    print("held", flush=True)
    {then}
"""


@contextlib.contextmanager
def holder(path, then="time.sleep(600)"):
    """Another process that holds the lock."""
    arguments = [sys.executable, "-c", HOLD.format(then=then), str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE", 0.2)


def assert_refused(path, process: int):
    told = f"the folder is in use by process {process} on {socket.gethostname()}; "
    for refuse in (
        lambda: lock.held(path, "the folder").__enter__(),
        lambda: lock.check_free(path, "the folder"),
    ):
        with pytest.raises(InputError, match=told):
            refuse()


def test_another_program_is_kept_out_until_the_holder_is_killed(tmp_path):
    path = tmp_path / "run" / ".lock"
    with holder(path) as process:
        assert_refused(path, process.pid)
        assert_refused(path, process.pid)  # being refused releases nothing
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock.held(path, "the folder"):
            assert_refused(path, os.getpid())


def test_children_of_a_killed_holder_do_not_hold(tmp_path):
    path = tmp_path / ".lock"
    fork = "import os; child = os.fork(); print(child, flush=True) if child else None; time.sleep(600)"
    with holder(path, fork) as process:
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            os.kill(child, 0)
            with lock.held(path, "the folder"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_holder_that_is_about_to_end_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE", 30)
    with holder(tmp_path / ".lock", "time.sleep(0.5)"), lock.held(tmp_path / ".lock", "the folder"):
        pass


def test_a_lock_is_released_at_the_end_and_on_an_error(tmp_path):
    path = tmp_path / ".lock"
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError), lock.held(path, "the folder"):
            assert_refused(path, os.getpid())
            _ = 1 / 0
    lock.check_free(path, "the folder")
    with holder(path):
        pass


def test_asking_makes_nothing(tmp_path):
    lock.check_free(tmp_path / "none" / ".lock", "the folder")
    assert not any(tmp_path.iterdir())


def test_a_lock_without_a_name_in_it_is_respected(tmp_path):
    path = tmp_path / ".lock"
    with holder(path):
        path.write_text("")
        with pytest.raises(InputError, match="in use by another program"):
            lock.held(path, "the folder").__enter__()


def test_where_it_cannot_be_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="run: cannot be locked"):
        lock.held(tmp_path / "run" / ".lock", "the folder").__enter__()


def test_storage_without_locks_is_used_and_said(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    started = time.monotonic()
    with lock.held(tmp_path / ".lock", "the folder"):
        assert "this storage has no locks" in caplog.text
    assert time.monotonic() - started < 5

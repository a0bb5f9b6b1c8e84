"""Several processes agree and wait for each other, however far apart they are."""

import json
import socket
import subprocess
import sys

import jax
import pytest

from cusa_jax import distributed
from cusa_jax.errors import InputError

PROGRAM = """
import json, sys, time
import jax, jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
from pathlib import Path
from cusa_jax import distributed
from cusa_jax.errors import InputError
from cusa_jax.lock import held

port, number, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
distributed.start(f"127.0.0.1:{port}", 2, number)
said = {"first": distributed.is_first(), "agree": [distributed.all_agree(True), distributed.all_agree(number == 0)]}
said["from_first"] = distributed.from_first(lambda: f"process {jax.process_index()}")

def slow(x, y):  # to compile, in the second process
    time.sleep(3 * number)
    return {"sum": x["a"] + y}

function = distributed.together(jax.jit(slow))
seconds = []
for x in (1.0, 2.0, jnp.ones(3)):  # two of one shape
    distributed.wait_for_all("start")
    started = time.monotonic()
    result = function({"a": jnp.asarray(x)}, jnp.float32(1))
    seconds.append(time.monotonic() - started)
said |= {"seconds": seconds, "result": result["sum"].tolist()}
with held(folder / "free", "the folder"):
    said["held"] = (folder / "free").read_text() if number == 0 else ""
distributed.wait_for_all("the lock is read")
try:
    with held(folder / "taken", "the folder"):
        pass
except InputError as error:
    said["refused"] = str(error)
print(json.dumps(said))
"""


def test_two_processes_meet_before_what_they_have_compiled_runs(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    hold = (
        "import sys; from pathlib import Path; from cusa_jax.lock import held\n"
        "with held(Path(sys.argv[1]), ''): print('held', flush=True); input()"
    )
    pipes = {"stdout": subprocess.PIPE, "stdin": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "taken")], **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        processes = [
            subprocess.Popen([sys.executable, "-c", PROGRAM, port, number, str(tmp_path)], **pipes)
            for number in "01"
        ]
        first, second = (json.loads(process.communicate(timeout=200)[0]) for process in processes)
        holder.communicate("go\n")
    assert (first["first"], second["first"]) == (True, False)
    assert first["agree"] == second["agree"] == [True, False]
    assert first["from_first"] == second["from_first"] == "process 0"
    assert first["result"] == second["result"] == [2.0, 2.0, 2.0]
    fast, cached, other_shape = first["seconds"]
    assert min(fast, other_shape) > 2  # it waited for the second process to compile
    assert cached < 2
    assert str(processes[0].pid) in first["held"]
    told = f"the folder is in use by process {holder.pid} on {socket.gethostname()}; "
    assert first["refused"].startswith(told)
    assert second["refused"] == first["refused"]


def test_one_process_is_alone():
    distributed.wait_for_all("nobody")
    assert distributed.is_first()
    assert distributed.all_agree(True)
    assert not distributed.all_agree(False)
    assert distributed.from_first(lambda: "here") == "here"
    assert distributed.together(jax.jit(lambda x: 2 * x))(3) == 6


def test_a_coordinator_that_cannot_be_is_one_line():
    with pytest.raises(
        InputError, match=r"--coordinator=nowhere: cannot start \(.*give --coordinator=HOST:PORT"
    ):
        distributed.start("nowhere", None, None)

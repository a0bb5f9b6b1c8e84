"""How long a training takes from its command to its first logged step, on the data of a configuration."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cusa_jax.benchmark.measure import Row, middle
from cusa_jax.config import validate
from cusa_jax.errors import InputError
from cusa_jax.experiment import build

_RUN = "from cusa_jax.cli import main; main()"
_CONFIG = """import json
from cusa_jax.config import from_values
def get_config(_=None):
    return from_values(json.loads({values!r}), "bench")
"""
_STEP = re.compile(r"step (\d+)/\d+ \| epoch")


def rows(config: Any, repeats: int) -> list[Row]:
    """Medians of `repeats` (at least 1) rounds. A round is a run of its own, stopped after each of its starts.

    first: nothing is compiled, and the model is validated before its first step. again: the same command. again, not
    kept: the same with --config.compiled=false. imports: what a training imports, without any of it being run.
    """
    # What the configuration's data need is made before anything is timed.
    build(validate(config))
    rounds = [_round(config) for _ in range(repeats)]
    times = {name: middle([one[name] for one in rounds]) for name in rounds[0]}
    slowest = times["again, not kept"].seconds
    return [
        {"start": name, "s": time.seconds, "± s": time.spread, "× not kept": time.seconds / slowest}
        for name, time in times.items()
    ]


def _round(config: Any) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        preset, workdir = Path(folder, "preset.py"), Path(folder, "run")
        preset.write_text(_CONFIG.format(values=json.dumps(config.to_dict())))
        train = ["train", f"--config={preset}", f"--workdir={workdir}", "--config.log.every_steps=1"]
        return {
            "imports": _to_end(["-c", "import cusa_jax.finish"]),
            "first": _to_step(train),
            "again": _to_step(train),
            "again, not kept": _to_step([*train, "--config.compiled=false"]),
        }


def _to_end(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=_environment(), check=True)
    return time.perf_counter() - start


def _to_step(command: list[str]) -> float:
    """Seconds until a training has logged its first step; it is then asked to stop, and has saved what it did."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", _RUN, *command], env=_environment(), stdout=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout
        for line in training.stdout:
            if (logged := _STEP.match(line)) and int(logged[1]) > 0:
                took = time.perf_counter() - start
                training.terminate()
                training.communicate()
                return took
    raise InputError("the training did not come to its first step; what it says of that is above")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}

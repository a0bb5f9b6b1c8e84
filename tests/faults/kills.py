"""Kills a small training again and again, at random moments of each of its phases, and compares what it ends with.

python tests/faults/kills.py [--rounds=12] [--seed=0]

A round is one run, with a world, a prepared folder, a bank and compiled programs of its own. It is killed with SIGKILL
once in each phase, and the same command goes on. In the end all bits must be those of a run that nobody disturbed:
files of the prepared folder, metrics, results, and the state of the last checkpoint. It takes two minutes a round on
two cores; tests/test_train.py does a part of it in every run of the suite.
"""

import argparse
import collections
import contextlib
import hashlib
import importlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# In the order in which a run comes to them: (module, what is called in it), by phase.
PREPARING = {
    "world": ("cusa_jax.data.world", "write"),
    "prepare": ("cusa_jax.data.prepared", "prepare"),
}
TRAINING = {
    "bank": ("cusa_jax.teachers.bank", "_compute"),
    "compile": ("cusa_jax.train", "jitted"),
    "step": ("cusa_jax.train", "jitted"),
    "checkpoint": ("cusa_jax.checkpoint", "Checkpoints.save"),
    "validation": ("cusa_jax.evaluation.retrieval", "Evaluator.__call__"),
    "best": ("cusa_jax.checkpoint", "Checkpoints.save_best"),
    "test": ("cusa_jax.finish", "_score_test"),
    "report": ("cusa_jax.finish", "_write_report"),
}
SETTINGS = {
    "data.world.train": 64, "data.world.val": 12, "data.world.test": 12, "batch_size": 32, "schedule.epochs": 3,
    "eval.batch_size": 60, "model.sizes": "vision_layers=1,text_layers=1", "checkpoint.every_steps": 4,
    "checkpoint.keep": 3, "log.every_steps": 2,
}  # fmt: skip
STEPS = 30
_SECOND_PASS = ("step", "checkpoint")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, killed, within = random.Random(asked.seed), collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory(prefix="cusa_jax_kills_") as folder:
        # What is prepared names its images: all runs lie in the same place, one after the other.
        run = Path(folder) / "run"
        durations = undisturbed("prepare", run) | undisturbed("train", run)
        expected = ends(run)
        for number in range(asked.rounds):
            shutil.rmtree(run)
            for script, phases in (("prepare", PREPARING), ("train", TRAINING)):
                for phase in phases:
                    outcome = kill_within(script, run, phase, durations[phase], rng)
                    killed[phase] += outcome != "ended"
                    within[phase] += outcome == "within"
                undisturbed(script, run)
            found = ends(run)
            other = [name for name in expected | found if found.get(name) != expected.get(name)]
            assert not other, f"round {number} of seed {asked.seed} ended with other bits of {other}"
            print(f"\n{number + 1} of {asked.rounds} runs ended alike\n\n{table(killed, within)}", flush=True)


def table(killed: collections.Counter, within: collections.Counter) -> str:
    lines = ["| phase | kills | of them before it ended |", "|---|---|---|"]
    lines += [f"| {phase} | {killed[phase]} | {within[phase]} |" for phase in (*PREPARING, *TRAINING)]
    return "\n".join([*lines, f"| all | {killed.total()} | {within.total()} |"])


# --- the killer -----------------------------------------------------------------------------------------------


def start(script: str, run: Path) -> subprocess.Popen:
    command = [sys.executable, __file__, "--child", script, "--config=configs/demo.py"]
    command += [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    command += [f"--config.data.path={run / 'world'}", f"--config.teacher.bank={run / 'bank'}"]
    command += [f"--out={run / 'prepared'}" if script == "prepare" else f"--workdir={run / 'run'}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def undisturbed(script: str, run: Path) -> dict[str, float]:
    """To its end; the seconds of the longest pass through each phase."""
    begun, longest, told = {}, collections.defaultdict(float), []
    with start(script, run) as process:
        for line in process.stdout:
            told.append(line)
            if line.startswith("@ "):
                _, phase, what = line.split()
                if what == "begins":
                    begun[phase] = time.monotonic()
                else:
                    longest[phase] = max(longest[phase], time.monotonic() - begun[phase])
    assert process.returncode == 0, "".join(told)
    return longest


def kill_within(script: str, run: Path, phase: str, seconds: float, rng: random.Random) -> str:
    """'within' the phase, 'after' it, or 'ended' where the process was faster. A resumed run may pass it again."""
    passes = rng.randint(1, 3) if phase in _SECOND_PASS else 1
    told = []
    with start(script, run) as process:
        for line in process.stdout:
            told.append(line)
            passes -= line == f"@ {phase} begins\n"
            if not passes:
                time.sleep(rng.uniform(0, seconds))
                process.send_signal(signal.SIGKILL)
                break
        rest = process.stdout.read()
    if process.returncode != -signal.SIGKILL:
        assert process.returncode == 0, "".join(told) + rest
        return "ended"
    return "after" if f"@ {phase} ends" in rest else "within"


def ends(run: Path) -> dict[str, str]:
    """sha256 of everything that must be the same, by name."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from cusa_jax.data.splits import SPLITS, load_split
    from cusa_jax.models import clip
    from cusa_jax.models.clip_sizes import PRESETS

    found = {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted([*run.glob("world/**/*"), *run.glob("prepared/*")])
        if path.is_file()
    }
    inputs = clip.inputs(PRESETS["toy"])
    for split in SPLITS:
        # The records are compared, not the bytes of their files.
        images = load_split(run / "prepared", split, inputs, image_root="").images
        pixels = [np.asarray(images.read(n, inputs.image)[0]) for n in range(len(images))]
        found[f"prepared {split}"] = np.stack(pixels).tobytes()
    found["results"] = (run / "run" / "results.json").read_bytes()
    lines = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    # No two runs share their speed.
    found["metrics"] = json.dumps([line | {"pairs_per_second": 0} for line in lines]).encode()
    state = ocp.StandardCheckpointer().restore(
        (run / "run" / "checkpoints" / str(STEPS) / "state").absolute()
    )
    for path, leaf in jax.tree.leaves_with_path(state):
        found[f"state{jax.tree_util.keystr(path)}"] = np.asarray(leaf).tobytes()
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


# --- the command, which says in which phase it is -------------------------------------------------------------


def child(script: str) -> None:
    for phase, (module, name) in (PREPARING if script == "prepare" else TRAINING).items():
        holder = importlib.import_module(module)
        owner, _, name = name.rpartition(".")
        holder = getattr(holder, owner) if owner else holder
        if phase == "compile":
            setattr(holder, name, told_steps(getattr(holder, name)))
        elif phase != "step":
            setattr(holder, name, told(phase, getattr(holder, name)))
    runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")


def told(phase: str, function):
    def wrapped(*arguments, **options):
        with saying(phase):
            return function(*arguments, **options)

    return wrapped


def told_steps(jitted):
    """The first call compiles; the others are steps."""

    def wrapped(*arguments):
        step, phases = jitted(*arguments), iter(["compile"])

        def one(*values):
            with saying(next(phases, "step")):
                return step(*values)

        return one

    return wrapped


@contextlib.contextmanager
def saying(phase: str):
    print(f"@ {phase} begins", flush=True)
    yield
    print(f"@ {phase} ends", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        script = sys.argv[2]
        sys.argv[:3] = sys.argv[:1]
        child(script)
    else:
        main()

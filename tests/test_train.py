"""The training command as its users run it: real processes, killed, stopped, damaged, and resumed."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from training import (
    ROOT,
    SETTINGS,
    STEPS,
    assert_same_end,
    command,
    kill_after,
    metrics,
    run,
    wait_for_step,
)  # fmt: skip

from cusa_jax.data import world


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    sizes = {split: SETTINGS[f"data.world.{split}"] for split in ("train", "val", "test")}
    return world.write(tmp_path_factory.mktemp("data") / "world", sizes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = run(workdir, data)
    assert done.returncode == 0, done.stderr
    return workdir


def test_a_run_leaves_metrics_checkpoints_and_results(undisturbed):
    train = [line for line in metrics(undisturbed) if line["split"] == "train"]
    assert [line["step"] for line in train] == [1, *range(2, STEPS + 1, 2)]
    assert {"loss", "loss_contrastive", "loss_csa", "loss_usa", "learning_rate", "tau_contrastive"} <= train[
        0
    ].keys()
    assert train[-1]["loss_contrastive"] < train[0]["loss_contrastive"]
    validated = [line for line in metrics(undisturbed) if line["split"] == "val"]
    assert [line["step"] for line in validated] == [0, 10, 20, 30]
    best = max(validated[1:], key=lambda line: line["r_mean"])
    results = json.loads((undisturbed / "results.json").read_text())
    assert (results["best_step"], results["val_r_mean"]) == (best["step"], best["r_mean"])
    assert results["val_r_mean_start"] == validated[0]["r_mean"]
    assert {"i2t_r1", "t2i_r10", "map_at_r", "t2i_exact_r1"} <= results["test"].keys()
    assert (
        {"i2t_r1", "t2i_r10", "r_mean", "rsum"} <= results["test_intervals"].keys() <= results["test"].keys()
    )
    for name, (low, high) in results["test_intervals"].items():
        assert low <= results["test"][name] <= high
    assert list((undisturbed / "tensorboard").glob("events*"))
    report = (undisturbed / "report.html").read_text()
    assert f"{results['test']['i2t_r1']:.2f}" in report
    assert "Captions with captions (USA): r = " in report
    assert report.count('<div class="query ') == 12


def test_a_finished_run_is_not_evaluated_again(data, undisturbed):
    before = (undisturbed / "metrics.jsonl").read_bytes()
    done = run(undisturbed, data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("finished: ")
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_bad_input_does_not_claim_the_workdir(tmp_path, data):
    bad = run(tmp_path / "run", data, **{"teacher.text": tmp_path / "none"})
    assert "none" in one_line(bad)
    assert not (tmp_path / "run").exists()


def test_killed_twice_and_resumed_ends_bit_identical(tmp_path, data, undisturbed):
    workdir = tmp_path / "killed"
    for step in (6, 18):
        assert kill_after(step, signal.SIGKILL, workdir, data).returncode == -signal.SIGKILL
    done = run(workdir, data)
    assert done.returncode == 0, done.stderr
    assert "continuing from step" in done.stdout
    assert_same_end(workdir, undisturbed)


def test_stopped_by_sigterm_then_damaged_it_falls_back_and_ends_bit_identical(tmp_path, data, undisturbed):
    workdir = tmp_path / "stopped"
    assert kill_after(12, signal.SIGTERM, workdir, data).returncode == 0
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert len(steps) == 3
    damage(workdir / "checkpoints" / str(steps[2]), flip_a_bit)
    damage(workdir / "checkpoints" / str(steps[1]), lambda content: content[: len(content) // 2])
    done = run(workdir, data)
    assert done.returncode == 0, done.stderr
    assert f"continuing from step {steps[0]}\n" in done.stdout
    for step in steps[1:]:
        assert f"checkpoints/{step} is damaged" in done.stderr
        assert (workdir / "damaged" / str(step)).is_dir()
    assert_same_end(workdir, undisturbed)


def test_a_full_disk_is_one_line_and_the_same_command_ends_bit_identical(tmp_path, data, undisturbed):
    """The limit of a file's size stands for the disk: Orbax's files come to it, and what is smaller is written."""
    workdir = tmp_path / "full"
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 100; exec "$@"', "-", *command(workdir, data)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"{workdir}: cannot be written to (File too large); what was saved last is kept" in one_line(done)
    assert "step 4/" in done.stdout
    done = run(workdir, data)
    assert done.returncode == 0, done.stderr
    assert_same_end(workdir, undisturbed)


def damage(checkpoint: Path, change) -> None:
    largest = max(checkpoint.rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(change(bytearray(largest.read_bytes())))


def flip_a_bit(content: bytearray) -> bytearray:
    content[len(content) // 2] ^= 0x10
    return content


def test_divergence_stops_and_names_step_and_term(tmp_path, data):
    done = run(
        tmp_path / "nan", data, **{"optim.lr": 1e12, "optim.clip_norm": 0.0, "schedule.warmup_epochs": 0.0}
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: step 2: loss_contrastive is nan")


def one_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    return errors[0]


def test_workdir_of_another_configuration_is_refused(data, undisturbed):
    assert "optim.lr 0.001 -> 0.5" in one_line(run(undisturbed, data, **{"optim.lr": 0.5}))


@pytest.fixture
def launch():
    """Starts the command as `count` processes of `devices` virtual devices each, which meet on a free port."""
    started: list[subprocess.Popen] = []

    def start(count: int, devices: int, *args, **overrides) -> list[subprocess.Popen]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        meet = [f"--coordinator=127.0.0.1:{port}", f"--processes={count}"] if count > 1 else []
        for number in range(count):
            arguments = [*command(*args, **overrides), *meet, *([f"--process_id={number}"] if meet else [])]
            environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
            started.append(
                subprocess.Popen(
                    arguments,
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return started[-count:]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def output(process: subprocess.Popen) -> str:
    """What is left of it, when the process has ended well."""
    told, _ = process.communicate()
    assert process.returncode == 0, told
    return told


def test_a_run_survives_a_killed_process_and_moves_to_other_devices(tmp_path, data, undisturbed, launch):
    """2 processes of 2 devices: one is killed, both start again, one gets SIGTERM; 1 process of 4 ends the run.

    Its teachers are in a bank, which both compute together; those of the undisturbed run are live.
    """
    workdir, bank = tmp_path / "moved", tmp_path / "bank"
    killed = launch(2, 2, workdir, data, **{"sharding.fsdp": 2, "teacher.bank": bank})
    wait_for_step(killed[0], 6)
    for process in reversed(killed):  # one dies, and the launcher ends the other, which cannot go on
        process.kill()
        process.wait()

    stopped = launch(2, 2, workdir, data, **{"sharding.fsdp": 2, "teacher.bank": bank})
    wait_for_step(stopped[0], 14)
    stopped[1].send_signal(signal.SIGTERM)
    told = [output(process) for process in stopped]
    assert "saved; the same command continues" in told[0]

    (one,) = launch(1, 4, workdir, data, **{"sharding.fsdp": 4, "teacher.bank": bank})
    assert "continuing from step" in output(one)

    ours, theirs = metrics(workdir), metrics(undisturbed)
    assert [(line["step"], line["split"]) for line in ours] == [
        (line["step"], line["split"]) for line in theirs
    ]
    for mine, line in zip(ours, theirs, strict=True):
        if line["split"] == "train":
            assert mine["loss"] == pytest.approx(line["loss"], rel=1e-5)

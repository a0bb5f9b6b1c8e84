"""Metrics on disk: every reader sees the same numbers, and a resumed run carries on where its checkpoint was."""

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from cusa_jax.runlog import RunLog, read_metrics

LOSSES = {"loss": 0.75, "loss_contrastive": 0.5, "loss_csa": 0.25}


def board(workdir: Path) -> dict[tuple[str, int], float]:
    """{(curve, step): value} of the TensorBoard files: records of length, checksum, event, checksum."""
    points = {}
    for path in sorted((workdir / "tensorboard").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            points |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            at += 12 + length + 4
    return points


def log(workdir: Path, start: int = 0) -> RunLog:
    return RunLog(workdir, total_steps=40, steps_per_epoch=10, batch_size=8, start=start)


def test_console_file_and_board_agree(tmp_path, capsys, monkeypatch):
    clock = iter([100.0, 102.0, 103.0, 103.5, 104.0])
    monkeypatch.setattr("cusa_jax.runlog.time", SimpleNamespace(monotonic=lambda: next(clock)))
    run = log(tmp_path)
    run.train(5, LOSSES)
    run.evaluated(10, "val", {"r_mean": 12.5, "i2t_r1": 10.0, "median_rank": 7.0})
    run.start_clock(11, LOSSES)
    run.train(11, LOSSES)
    run.close()

    assert capsys.readouterr().out.splitlines() == [
        "step 5/40 | epoch 0.50 | loss 0.7500 (contrastive 0.5000 csa 0.2500) | 20 pairs/s | 0:14 left",
        "step 10/40 | val: i2t_r1 10.00 r_mean 12.50",
        "step 11/40 | epoch 1.10 | loss 0.7500 (contrastive 0.5000 csa 0.2500)",
    ]
    line, first = read_metrics(tmp_path, "train")
    assert first == {"step": 11, "split": "train", **LOSSES}
    assert line == {"step": 5, "split": "train", **LOSSES, "pairs_per_second": 20.0}
    assert [line["r_mean"] for line in read_metrics(tmp_path, "val")] == [12.5]
    assert board(tmp_path) == {
        **{(f"train/{name}", step): value for step in (5, 11) for name, value in LOSSES.items()},
        ("train/pairs_per_second", 5): 20.0,
        ("val/r_mean", 10): 12.5,
        ("val/i2t_r1", 10): 10.0,
        ("val/median_rank", 10): 7.0,
    }


@pytest.mark.parametrize("torn", ["", '{"step": 25, "spl'])
def test_a_resumed_run_drops_what_lies_after_its_checkpoint(tmp_path, torn):
    run = log(tmp_path)
    for step in (10, 20, 30):
        run.write(step, "train", {"loss": step / 10})
    run.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    log(tmp_path, start=20).close()
    assert [line["step"] for line in read_metrics(tmp_path, "train")] == [10, 20]

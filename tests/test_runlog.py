"""Metrics on disk: every reader sees the same numbers, and a resumed run carries on where its checkpoint was."""

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from cusa_jax.errors import InputError
from cusa_jax.runlog import RunLog, read_metrics, read_results

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


def log(workdir: Path, start: int | None = 0) -> RunLog:
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


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 2, "split": "tr\xe1in", "loss": 1.0}',
        b'{"step": 2, "split": "train", "loss": 1.0',
        b"",
        b"[2]",
        b"7",
        b'{"split": "train"}',
        b'{"step": "2", "split": "train"}',
        b'{"step": true, "split": "train"}',
        b'{"step": 2, "split": ["train"]}',
        b'{"step": 2, "split": "train", "loss": "high"}',
        b'{"step": 2, "split": "train", "loss": [1]}',
        b'{"step": 2, "split": "train", "loss": 1' + b"0" * 400 + b"}",
        b'{"step": 2, "split": "train", "loss": ' + b"[" * 100_000,
    ],
    ids=range(13),
)
def test_a_damaged_line_is_named_by_every_reader(tmp_path, line):
    good = b'{"step": 1, "split": "train", "loss": NaN}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + line + b"\n" + good)
    for read in (lambda: log(tmp_path, start=1), lambda: read_metrics(tmp_path, "val")):
        with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 is not a line of metrics; remove it$"):
            read()
    assert (tmp_path / "metrics.jsonl").read_bytes() == good + line + b"\n" + good


def test_a_run_whose_log_is_gone_says_so(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be read \(No such file"):
        read_metrics(tmp_path, "train")


def test_runs_of_before_are_read_under_todays_keys(tmp_path):
    line = '{"step": 1, "split": "val", "txt_r1": 3.5, "img_map_at_r": 2.5, "txt_r_precision": 1.5, "r_mean": 4.0}'
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    values = {"i2t_r1": 3.5, "t2i_map_at_r": 2.5, "i2t_rprecision": 1.5, "r_mean": 4.0}
    assert read_metrics(tmp_path, "val") == [{"step": 1, "split": "val", **values}]
    (tmp_path / "results.json").write_text(
        '{"best_step": 1, "val_r_mean": 4.0, "test": {"img_exact_r1": 5.0}}'
    )
    assert read_results(tmp_path)["test"] == {"t2i_exact_r1": 5.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"test": {}}',
        b'{"best_step": 1, "test": {"r_mean": "high"}}',
        b'{"best_step": 1, "test": {}, "test_intervals": {"r_mean": [1.0, "high"]}}',
        b'{"best_step": 1, "test": {}, "test_intervals": {"r_mean": [1.0]}}',
        b'{"a":' + b"[" * 100_000,
    ],
    ids=range(8),
)
def test_damaged_results_are_one_line(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(InputError, match=r"results\.json: (not|holds|JSON)") as told:
        read_results(tmp_path)
    assert "\n" not in str(told.value)


def test_the_test_is_added_to_a_log_that_is_over(tmp_path):
    run = log(tmp_path)
    for split in ("train", "val"):
        run.write(40, split, {"r_mean": 1.0})
    run.close()
    over = log(tmp_path, start=None)
    over.evaluated(20, "test", {"r_mean": 2.0})
    over.close()
    assert [len(read_metrics(tmp_path, split)) for split in ("train", "val", "test")] == [1, 1, 1]
    assert board(tmp_path)["test/r_mean", 20] == 2.0

"""What a benchmark reports is what happened."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import pytest

from cusa_jax.benchmark import measure


class Clock:
    """Time passes in calls alone, `seconds` in each that is made, the last for ever."""

    def __init__(self, monkeypatch, *seconds):
        self.now, self.seconds, self.calls = 0.0, list(seconds), []
        monkeypatch.setattr(measure.time, "perf_counter", lambda: self.now)

    def call(self, name="a"):
        self.calls.append(name)
        self.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


def test_rounds_alternate_after_two_calls_of_each_unmeasured(monkeypatch):
    clock = Clock(monkeypatch, 1)
    measure.time_rounds({name: functools.partial(clock.call, name) for name in "ab"}, repeats=2)
    assert "".join(clock.calls) == "aabb" + "abab"


def test_a_round_of_a_fast_call_takes_many(monkeypatch):
    clock = Clock(monkeypatch, 30, measure.ROUND_SECONDS / 4)
    time = measure.time_rounds({"a": clock.call}, repeats=2)["a"]
    assert len(clock.calls) == 2 + 2 * 4
    assert time.seconds == pytest.approx(measure.ROUND_SECONDS / 4)
    assert time.spread == pytest.approx(0)


def test_median_and_spread(monkeypatch):
    clock = Clock(monkeypatch, 9, 1, 1, 4, 2)
    assert measure.time_rounds({"a": clock.call}, repeats=3)["a"] == measure.Time(2, 3)


def test_planned_memory_counts_a_donated_argument_once():
    x = jax.ShapeDtypeStruct((2**18,), jnp.float32)  # 1 MiB
    twice = jax.jit(lambda x: x + 1).lower(x).compile()
    once = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert measure.peak_mebibytes(twice) - measure.peak_mebibytes(once) == pytest.approx(1)


def test_table_and_file_tell_what_was_not_measured(tmp_path):
    rows = [{"step": "a", "s": 0.12345, "pairs/s": 4321.9}, {"step": "b", "s": math.nan, "pairs/s": 7}]
    assert measure.table(rows).splitlines() == [
        "step      s  pairs/s",
        "   a  0.123    4,322",
        "   b      -        7",
    ]
    measure.write(tmp_path / "new" / "bench.json", {"step": rows})
    assert json.loads((tmp_path / "new" / "bench.json").read_text())["step"] == [
        {"step": "a", "s": 0.12345, "pairs/s": 4321.9},
        {"step": "b", "s": None, "pairs/s": 7},
    ]

"""What a benchmark reports is what happened."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import pytest

from cusa_jax.benchmark import measure


def test_rounds_alternate_after_one_call_of_each_unmeasured():
    calls = []
    measure.time_rounds({name: functools.partial(calls.append, name) for name in "ab"}, repeats=2)
    assert calls == ["a", "b", "a", "b", "a", "b"]


def test_median_and_spread(monkeypatch):
    clock = iter([0, 1, 10, 14, 20, 22])  # three calls of 1, 4 and 2 seconds
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    assert measure.time_rounds({"a": lambda: None}, repeats=3)["a"] == measure.Time(2, 3)


def test_flops_of_a_matmul():
    x, y = jax.ShapeDtypeStruct((64, 128), jnp.float32), jax.ShapeDtypeStruct((128, 256), jnp.float32)
    assert measure.flops(jnp.matmul, x, y) == 2 * 64 * 128 * 256


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

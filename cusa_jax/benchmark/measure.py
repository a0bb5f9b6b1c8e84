"""Measuring: time in alternating rounds, planned memory, the device's matmul rate."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cusa_jax.workdir import write_json

Row = dict[str, Any]

# A round of a fast call takes many of them: the host's clock and the wait for the device cost a tenth of a millisecond.
ROUND_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Time:
    """Median of some calls and their spread, slowest minus fastest, in seconds; NaN for no calls."""

    seconds: float = math.nan
    spread: float = math.nan


def peak_mebibytes(compiled: Any) -> float:
    """Memory that the compiler plans for one call on one device: arguments, results and what lies between."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (held + memory.temp_size_in_bytes) / 2**20


def time_rounds(variants: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Time]:
    """Seconds of a call of every variant, in `repeats` alternating rounds, so that drift meets all alike.

    Two calls of each come first, unmeasured. A round of one takes as many calls as fill ROUND_SECONDS, one after
    another as training takes its steps, and waits for the last. A call returns arrays, or anything that is ready
    when it returns. repeats: at least 1.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    calls = {}
    for name, call in variants.items():
        _seconds(call, 1)
        calls[name] = max(1, round(ROUND_SECONDS / _seconds(call, 1)))
    for _ in range(repeats):
        for name, call in variants.items():
            seconds[name].append(_seconds(call, calls[name]))
    return {name: middle(some) for name, some in seconds.items()}


def middle(seconds: Sequence[float]) -> Time:
    return Time(statistics.median(seconds), max(seconds) - min(seconds))


def _seconds(call: Callable[[], Any], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / times


def matmul_rate(dtype: str, size: int, repeats: int) -> float:
    """FLOP/s of one device: the median of `repeats` rounds of products of two random [size, size] matrices.

    Random ones: a device draws less power for constants, and is faster.
    """
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(jax.numpy.matmul)
    return 2 * size**3 / time_rounds({"matmul": lambda: product(x, x)}, repeats)["matmul"].seconds


def table(rows: Sequence[Row]) -> str:
    """Rows of equal keys as text, one line each, under a heading; '-' for what was not measured."""
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines)


def write(path: Path, tables: Mapping[str, Sequence[Row]]) -> None:
    """All tables, and where they were measured, as JSON; what was not measured is null."""
    device = jax.devices()[0]
    machine = {"device": device.device_kind, "devices": jax.device_count(), "jax": jax.__version__}
    known = {
        name: [{key: None if _unknown(value) else value for key, value in row.items()} for row in rows]
        for name, rows in tables.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"machine": machine, **known})


def _unknown(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

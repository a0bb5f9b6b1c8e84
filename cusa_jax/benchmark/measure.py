"""Measuring: time in alternating rounds, counted FLOPs, planned memory, the device's matmul rate."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cusa_jax.workdir import write_json

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Time:
    """Median of some calls and their spread, slowest minus fastest, in seconds; NaN for no calls."""

    seconds: float = math.nan
    spread: float = math.nan


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs that one call asks for over all devices, as XLA counts them before it optimises.

    The body of a loop counts once: pass a function without loops. arguments: arrays or ShapeDtypeStructs.
    """
    counted = jax.jit(function).lower(*arguments).cost_analysis()
    return float(counted["flops"]) if counted else math.nan


def peak_mebibytes(compiled: Any) -> float:
    """Memory that the compiler plans for one call on one device: arguments, results and what lies between."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (held + memory.temp_size_in_bytes) / 2**20


def time_rounds(variants: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Time]:
    """Times every variant in `repeats` rounds of one call of each, so that drift meets all alike.

    One call of each comes first, unmeasured. A call returns arrays, which are waited for, or anything that is ready
    when it returns. repeats: at least 1.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        jax.block_until_ready(call())
    for _ in range(repeats):
        for name, call in variants.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return {name: Time(statistics.median(some), max(some) - min(some)) for name, some in seconds.items()}


def matmul_rate(dtype: str, size: int, repeats: int) -> float:
    """FLOP/s of one device: the median of `repeats` products of two [size, size] matrices."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
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

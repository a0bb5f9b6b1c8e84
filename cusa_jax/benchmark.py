"""Measuring: time in alternating rounds, counted FLOPs, planned memory, the device's matmul rate."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def flops(compiled: Any) -> float:
    """FLOPs of one call on one device, as XLA counts them; it counts the body of a loop once."""
    return float(compiled.cost_analysis().get("flops", float("nan")))


def peak_bytes(compiled: Any) -> int:
    """Memory that the compiler plans for one call on one device: arguments, results and what lies between."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return held + memory.temp_size_in_bytes


def time_rounds(variants: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, in `repeats` rounds of one call of every variant, so that drift meets all alike.

    One call of each comes first, unmeasured. A call returns arrays, which are waited for, or None.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        jax.block_until_ready(call())
    for _ in range(repeats):
        for name, call in variants.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and spread (slowest minus fastest) in seconds."""
    return {"seconds": statistics.median(seconds), "spread": max(seconds) - min(seconds)}


def matmul_rate(dtype: str, size: int, repeats: int) -> float:
    """FLOP/s of the fastest of `repeats` products of two [size, size] matrices on the first device."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / min(time_rounds({"matmul": lambda: product(x, x)}, repeats)["matmul"])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as text, one line each, under a heading."""
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines)


def write(path: Path, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """All tables, and where they were measured, as JSON."""
    device = jax.devices()[0]
    about = {"device": device.device_kind, "devices": jax.device_count(), "jax": jax.__version__}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": about, **tables}, indent=2) + "\n")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""The rows of the comparison, their tolerances, and how they are shown."""

import dataclasses
import math
from typing import Any

import numpy as np

# How far two correct implementations may lie apart, relative to the largest value compared, by kind of quantity.
# Rounding is amplified by depth, by the cancellation in a KL divergence, and by AdamW's division by tiny numbers.
TOLERANCES = {
    "float32": {"activation": 2e-5, "loss": 2e-5, "gradient": 1e-3, "step": 1e-3, "update": 3e-2},
    "float64": {"activation": 1e-12, "loss": 1e-12, "gradient": 1e-10, "step": 1e-10, "update": 1e-6},
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One stage: the worst relative error found, and the largest that passes."""

    stage: str
    error: float
    tolerance: float
    compared: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for NaN


def relative(ours: Any, theirs: Any) -> float:
    """max |ours - theirs| / max |theirs|; infinite where shapes differ."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return math.inf
    scale = np.abs(theirs).max(initial=0)
    return float(np.abs(ours - theirs).max(initial=0) / (scale or 1))


def markdown(rows: list[Row]) -> str:
    lines = ["| stage | compared | worst relative error | tolerance | verdict |", "|---|---|---:|---:|---|"]
    for row in rows:
        verdict = "pass" if row.passed else "**FAIL**"
        lines.append(f"| {row.stage} | {row.compared} | {row.error:.1e} | {row.tolerance:.0e} | {verdict} |")
    return "\n".join(lines)


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    return [{**dataclasses.asdict(row), "passed": row.passed} for row in rows]

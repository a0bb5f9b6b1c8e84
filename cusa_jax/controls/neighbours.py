"""False negatives among the nearest: captions of other photographs that describe this one, by expert judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cusa_jax.controls.cells import Cell
from cusa_jax.evaluation.human import Rated

# How many captions are near, and from which mean rating of 1 to 4 on one describes the photograph.
NEAR, DESCRIBES = 10, 3.0


def text(rated: Mapping[Cell, Sequence[Rated]]) -> str:
    """For every cell, the mean over seeds. Experts rated few pairs: shares are of those."""
    width = max(map(len, map(str, rated))) + 2
    lines = [
        f"captions of other photographs that experts rated: {NEAR} nearest to a photograph, mean over seeds",
        f"{'':<{width}}{'near':>8}{'describe it, of near':>24}{'near, of what describes it':>30}",
    ]
    for cell, seeds in rated.items():
        near, true, found = np.mean([shares(seed) for seed in seeds], axis=0)
        lines.append(f"{cell!s:<{width}}{near:>8.1f}{true:>22.1f} %{found:>28.1f} %")
    return "\n".join(lines)


def shares(rated: Rated) -> tuple[int, float, float]:
    """(pairs that are near, how many of these describe the photograph, how many of those that do are near, in %)."""
    near, true = rated.rank < NEAR, rated.rating >= DESCRIBES
    among, all_true, both = (int(np.count_nonzero(which)) for which in (near, true, near & true))
    return among, 100 * both / max(1, among), 100 * both / max(1, all_true)

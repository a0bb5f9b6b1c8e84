"""How far long work is: a bar on a terminal; where the output goes to a file, a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

# Seconds between two lines of a log, and until a bar is worth showing.
_BETWEEN_LINES, _DELAY = 15, 1


def progress(
    things: Iterable[Any] | None = None, *, what: str, unit: str, total: int | None = None, done: int = 0,
    shown: bool = True,
) -> tqdm:  # fmt: skip
    """tqdm over `things`, or to be updated by the caller: count, rate and time left. Gone at the end, on a terminal.

    total, done: how many there are, and how many of them were done before. shown: False is silent.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        things,
        what,
        total,
        initial=done,
        unit=f" {unit}",
        file=None if terminal else _Lines(),
        mininterval=0.1 if terminal else _BETWEEN_LINES,
        # A bar that finds a fast beginning would look at the clock too rarely for a slow rest.
        miniters=1,
        ncols=None if terminal else 0,
        leave=False,
        delay=_DELAY if terminal else _BETWEEN_LINES,
        disable=not shown,
    )


class _Lines:
    """What redraws a bar in place, as lines of stderr."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass

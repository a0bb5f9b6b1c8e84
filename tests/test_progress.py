"""Long work is a bar on a terminal and lines in a log."""

import io
import sys

import pytest

from cusa_jax import progress as module
from cusa_jax.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_bars_redraw_on_a_terminal_and_are_lines_in_a_log(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(module, "_BETWEEN_LINES", 0)
    monkeypatch.setattr(module, "_DELAY", 0)
    with progress(what="texts", unit="text", total=9, done=3) as bar:
        for _ in range(3):
            bar.update(2)
    shown = sys.stderr.getvalue()
    if stream is Terminal:
        assert "\r" in shown
    else:
        assert "\r" not in shown
        last = shown.splitlines()[-1]
        assert last.startswith("texts: 100%")
        assert "9/9" in last
        assert "text/s" in last


def test_short_work_leaves_no_line_in_a_log(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(progress(range(3), what="short", unit="block")) == [0, 1, 2]
    assert sys.stderr.getvalue() == ""
    assert list(progress(range(3), what="silent", unit="block", shown=False)) == [0, 1, 2]

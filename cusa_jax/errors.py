"""The exceptions that end a script with one line instead of a traceback, and how foreign text is shown in one.

Every other exception is a bug and keeps its traceback.
"""

import re


class InputError(ValueError):
    """Bad input: one line that names the file, key or shape, and what to do about it."""


class Diverged(ArithmeticError):
    """Training met a NaN or an infinity; the message names the step and the quantity."""


_LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def one_line(text: object) -> str:
    r"""Any text as a terminal can show it: line breaks are spaces, what is not visible is escaped (\x1b, \u202e).

    Text that went through it already stays as it is.
    """
    line = _LINE_BREAKS.sub(" ", str(text)).strip()
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in line
    )

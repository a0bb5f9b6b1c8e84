"""The exceptions that end a script with one line instead of a traceback, and how foreign text is shown in one.

Every other exception is a bug and keeps its traceback.
"""

import contextlib
from collections.abc import Iterator, Sequence


class InputError(ValueError):
    """Bad input: one line that names the file, key or shape, and what to do about it."""


class UnreadableImage(InputError):
    """An image that is missing or damaged, which a training can leave out."""


class Diverged(ArithmeticError):
    """Training met a NaN or an infinity; the message names the step and the quantity."""


def one_line(text: object) -> str:
    r"""Any text as a terminal can show it, on one line: what is not visible is escaped (\n, \x1b, \u202e).

    Text that went through it already stays as it is.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in line
    )


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few of them, 'a, b, c and 4 more'."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around an import: raises InputError that names the extra of this package that brings what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"the package '{error.name}' is needed: pip install 'cusa_jax[{extra}]'") from error

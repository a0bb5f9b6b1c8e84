"""The exceptions that end a script with one line instead of a traceback; everything else is a bug and keeps it."""


class InputError(ValueError):
    """Bad input: one line that names the file, key or shape, and what to do about it."""


class Diverged(ArithmeticError):
    """Training met a NaN or an infinity; the message names the step and the quantity."""


def one_line(text: str) -> str:
    """Names from files as they can be printed: what is no visible character becomes a question mark."""
    return "".join(character if character.isprintable() else "?" for character in text)

"""The one exception that means "your input is at fault, and here is the way out"."""


class InputError(ValueError):
    """Bad input: one line that names the file, key or shape, and what to do about it.

    Scripts print the message alone and exit with status 2; everything else is a bug and keeps its traceback.
    """

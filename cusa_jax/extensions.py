"""Code of one's own that a command takes along: `--extend=FILE.py` adds to the tables (docs/extending.md)."""

import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cusa_jax.errors import InputError

_FLAG = re.compile(r"--?extend=(.+)")


def import_named(arguments: Sequence[str]) -> None:
    """Imports the files of all `--extend=FILE.py` among the arguments of a command, in their order.

    Before flags are parsed, for configurations and choices depend on what the tables hold.
    Raises InputError where there is no such file, or it cannot be imported.
    """
    for flag in filter(None, map(_FLAG.fullmatch, arguments)):
        _import(Path(flag[1]))


def _import(file: Path) -> None:
    if not file.is_file():
        raise InputError(f"--extend={file}: no such file")
    # A module of its own, whatever other files are called.
    name = f"cusa_jax_extension_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"--extend={file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"--extend={file}: cannot be imported ({type(error).__name__}: {error})") from error

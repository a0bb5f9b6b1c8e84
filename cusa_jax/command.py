"""What the scripts share: --config with its checks, and errors as one line with a non-zero exit code."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from cusa_jax.config import default_config, flat
from cusa_jax.errors import Diverged, InputError
from cusa_jax.settings import nearest


def run(main: Callable[[Any, str], None]) -> None:
    """Parses the flags and calls main(config, name), name being the config file's stem and argument."""
    config_flags.DEFINE_config_file(
        "config", None, "Config file, as FILE or FILE:model=…,loss=…", lock_config=True
    )

    def with_config(_argv: list[str]) -> None:
        flag = flags.FLAGS["config"]
        path, _, argument = config_flags.get_config_filename(flag).partition(":")
        with errors_in_one_line():
            main(flag.value, Path(path).stem + (f"-{argument}" if argument else ""))

    logging.set_verbosity(logging.WARNING)  # Orbax tells a dozen lines per checkpoint; -v=0 shows them
    app.run(with_config, flags_parser=_parse)


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Bad input exits with 2, a diverged training with 1. Other exceptions are bugs and keep their traceback."""
    try:
        yield
    except InputError as error:
        _fail(2, str(error))
    except Diverged as error:
        _fail(1, str(error))
    except KeyboardInterrupt:
        _fail(130, "interrupted; what was saved last is in the checkpoints, the same command continues")


def _parse(argv: list[str]) -> list[str]:
    known = flat(default_config())
    groups = {key.rsplit(".", n)[0] for key in known for n in range(1, key.count(".") + 1)}
    for argument in argv[1:]:
        override = re.match(r"--?config\.([\w.]+)", argument)
        if override and override[1] not in known:
            if override[1] in groups:
                _fail(
                    2,
                    f"--config.{override[1]} is a group of keys; set one of them, --config.{override[1]}.KEY=…",
                )
            _fail(2, f"config has no key '{override[1]}'{nearest(override[1], known)}")
    try:
        rest = flags.FLAGS(argv)
    except InputError as error:
        _fail(2, str(error))
    except (flags.Error, OSError, AttributeError, SyntaxError) as error:
        # absl wraps what a config file raises; the last line is the cause.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        inner = next((line for line in lines if "InputError: " in line), None)
        _fail(2, inner.split("InputError: ", 1)[1] if inner else " ".join(lines)[:400])
    if not any(re.match(r"--?config(=|$)", argument) for argument in argv[1:]):
        _fail(2, "--config is missing: name a file, such as --config=configs/flickr.py")
    path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not Path(path).is_file():
        _fail(2, f"--config={path}: no such file")
    if rest[1:]:
        _fail(2, f"unexpected argument '{rest[1]}': options start with --")
    return rest


def _fail(code: int, message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)

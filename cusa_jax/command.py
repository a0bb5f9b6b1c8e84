"""The edge between the scripts and a terminal, the same for all of them.

Before: `~` is the home folder in every argument and path of the configuration, and --config is checked. After: an
error is one line with a non-zero exit code, and no text of a file or a library reaches the terminal but as one
visible line.
"""

import contextlib
import io
import logging as standard_logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

from absl import app, flags, logging
from ml_collections import config_flags

from cusa_jax.config import default_config, flat
from cusa_jax.errors import Diverged, InputError, one_line
from cusa_jax.extensions import import_named
from cusa_jax.files import shipped, write_refusal
from cusa_jax.host_memory import keep_freed
from cusa_jax.keys import defaults
from cusa_jax.settings import nearest, options

# Read before the other flags (extensions.py).
flags.DEFINE_multi_string(
    "extend", [], "Python file that adds students, teachers, terms, layouts or suites (docs/extending.md)."
)
# As shells expand it in assignments: at the start of an argument, of a flag's value, and of an item of a list.
_HOME = re.compile(r"(?:^|(?<=[=,]))~[\w.-]*(?=/|,|$)")


class _Lists(flags.MultiFlag):
    """Items with commas between them; a flag that is given again adds to them."""

    def _parse(self, arguments: Any) -> list[str]:
        return [item for items in super()._parse(arguments) for item in items]


def define_list(name: str, default: list[str], help: str) -> flags.FlagHolder[list[str]]:
    """As flags.DEFINE_list, which takes the last of several and forgets the others."""
    flag = _Lists(flags.ListParser(), flags.ListSerializer(","), name, default, help)
    return flags.DEFINE_flag(flag, module_name=sys.argv[0])


def script(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and calls main(arguments, the script's name first)."""
    _before_flags()

    def in_one_line(argv: list[str]) -> None:
        with errors_in_one_line():
            main(argv)

    app.run(in_one_line)


def run(main: Callable[[Any, str], None]) -> None:
    """Parses the flags and calls main(config, name), name being the config file's stem and argument.

    What has a configuration runs training steps: their memory is kept (host_memory.py).
    """
    config_flags.DEFINE_config_file(
        "config", None, "Config file, as FILE or FILE:model=…,loss=…", lock_config=True
    )

    def with_config(_argv: list[str]) -> None:
        flag = flags.FLAGS["config"]
        path, _, argument = config_flags.get_config_filename(flag).partition(":")
        _expand_config(flag.value)
        with errors_in_one_line():
            main(flag.value, Path(path).stem + (f"-{argument}" if argument else ""))

    keep_freed()
    _before_flags()
    logging.set_verbosity(logging.WARNING)  # Orbax tells a dozen lines per checkpoint; -v=0 shows them
    app.run(with_config, flags_parser=_parse)


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Bad input exits with 2, a diverged training and a full disk with 1. Other exceptions are bugs: a traceback."""
    _show_in_lines()
    try:
        yield
    except InputError as error:
        _fail(2, str(error))
    except Diverged as error:
        _fail(1, str(error))
    except KeyboardInterrupt:
        _fail(130, "interrupted; what was saved last is in the checkpoints, the same command continues")
    except Exception as error:
        if not (reason := write_refusal(error)):
            raise
        name = getattr(error, "filename", None)
        _fail(
            1, f"cannot write{f' {name}' if name else ''} ({reason}); the same command continues when it can"
        )


class _Lines(logging.PythonFormatter):
    """absl's format on one line, without the traceback that a library may add."""

    def format(self, record: standard_logging.LogRecord) -> str:
        return one_line(logging.get_absl_log_prefix(record) + record.getMessage())


def _show_in_lines() -> None:
    """File names need not be UTF-8, and what is logged may be anything."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = cast(Any, logging.get_absl_handler())
    handler.setFormatter(_Lines())
    handler.addFilter(_is_shown)
    sys.unraisablehook = _unraisable


def _is_shown(record: standard_logging.LogRecord) -> bool:
    """Orbax tells a dozen lines per checkpoint, and pages of a failure that it raises, too; -v=0 shows them."""
    return "orbax" not in record.pathname or logging.get_verbosity() >= logging.INFO


def _unraisable(unraisable: Any) -> None:
    """What TensorStore's own threads cannot hand on of a failed write is raised where the write is waited for."""
    if threading.current_thread() is threading.main_thread():
        sys.__unraisablehook__(unraisable)
    else:
        logging.info("in a library's thread: %r", unraisable.exc_value)


def _before_flags() -> None:
    """Expands ~ in sys.argv, from which ml_collections reads overrides, and imports the user's extensions."""
    sys.argv[1:] = [
        _preset(_expanded(argument)) if argument.startswith(("-", "~")) else argument
        for argument in sys.argv[1:]
    ]
    with errors_in_one_line():
        import_named(sys.argv[1:])


def _preset(argument: str) -> str:
    """`--config=flickr` and `--config=configs/flickr.py` are the preset, wherever this is run."""
    if named := re.fullmatch(r"(--?config=)(?:configs/)?([\w-]+)(?:\.py)?(:.*)?", argument):
        flag, name, rest = named.groups(default="")
        path = argument[len(flag) : len(argument) - len(rest)]
        if not Path(path).is_file() and (preset := shipped("configs") / f"{name}.py").is_file():
            return f"{flag}{preset}{rest}"
    return argument


def _expand_config(config: Any) -> None:
    """No key but paths has values that begin with ~."""
    for key, value in flat(config).items():
        if isinstance(value, str) and value.startswith("~"):
            config.update_from_flattened_dict({key: _expanded(value)})


def _expanded(text: str) -> str:
    return _HOME.sub(lambda home: os.path.expanduser(home[0]), text)


def _keys_by_group() -> str:
    """Every key of the configuration with its default and meaning, a paragraph for each group."""
    groups: dict[str, list[str]] = {}
    for key, option in options(defaults()).items():
        group = key.rpartition(".")[0]
        choices = f" [{', '.join(option.allowed)}]" if 0 < len(option.allowed) < 8 else ""
        groups.setdefault(group, []).append(f"  --config.{key}={option.default}  {option.help}{choices}")
    return "\n\n".join("\n".join((f"{group or 'the run'}:", *lines)) for group, lines in groups.items())


def _parse(argv: list[str]) -> list[str]:
    known = flat(default_config())
    if {"--help", "-h", "-help"} & set(argv[1:]):
        # absl says the flags of the script after it, and ends.
        print(f"{_keys_by_group()}\n")
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
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(code)

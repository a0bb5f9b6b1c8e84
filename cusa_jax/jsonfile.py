"""JSON files and texts, read and written in one place, with one style of error.

Reading is strict: UTF-8, an object where one is expected, no NaN and no infinity, no half of a surrogate pair, and
no deeper than anything that this program or its formats write.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cusa_jax.errors import InputError
from cusa_jax.files import written_whole

_DEEPEST = 64  # levels of nesting
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LARGEST = 2**24  # of a model's sizes; of those that are known, the vocabulary is the largest
MOST_LAYERS = 1024  # each of which is walked through before the weights can say that it is not there


def read_json(path: Path, remedy: str = "bring it back, or remove it") -> dict[str, Any]:
    """The JSON object in a file. Raises InputError naming the file, what is wrong with it, and the remedy."""
    value = read_any_json(path, remedy)
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {_kind(value)}, not an object; {remedy}")
    return value


def read_any_json(path: Path, remedy: str = "bring it back, or remove it") -> Any:
    """The JSON value in a file, of any type. Errors: `read_json`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from error
    return parse_json(content, path, remedy)


def read_captions_json(path: Path) -> Any:
    """The JSON value in a file of captions, which can be large and whose texts are checked row by row.

    Raises InputError naming the file where it cannot be read, or is no JSON.
    """
    try:
        # Windows editors begin a file with a byte order mark.
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def parse_json(content: bytes | str, where: object, remedy: str = "get it again") -> Any:
    """The JSON value of a text, UTF-8 if it is bytes. Errors: `read_json`, naming `where`."""
    try:
        # Windows editors begin a file with a byte order mark.
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
        if _SURROGATE.search(content if isinstance(content, bytes) else content.encode("utf8", "replace")):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise InputError(f"{where}: not a readable JSON file (nested too deeply); {remedy}") from error
    except ValueError as error:  # what is neither UTF-8 nor JSON
        raise InputError(f"{where}: not a readable JSON file ({error}); {remedy}") from error
    if _is_deep(value):
        raise InputError(f"{where}: not a readable JSON file (nested over {_DEEPEST} levels); {remedy}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes whole or not at all. A NaN is a ValueError: no reader takes it."""
    with written_whole(path) as fresh:
        fresh.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf8")


def size(
    section: Mapping[str, Any],
    key: str,
    where: object,
    default: int | None = None,
    *,
    at_most: int = _LARGEST,
) -> int:
    """section[key], a size of a model: a whole number from 1 on. Raises InputError naming `where` and the key."""
    value = section.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 1 <= value <= at_most:
        said = "is missing" if value is None else f"is {str(value)[:40]}"
        raise InputError(f"{where}: {key} {said}; it must be a whole number from 1 to {at_most}")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    return bool(level)


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")

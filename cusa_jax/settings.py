"""Settings as frozen dataclasses: every key is declared once, with its default, its bounds and its meaning.

    @dataclasses.dataclass(frozen=True)
    class Schedule:
        epochs: int = number(40, "passes over the training captions", low=1)
        every: str = choice("epoch", "when the learning rate moves", ("epoch", "step"))

`options` lists the keys of such a tree, `check` compares values with them, `build` makes the tree of checked values.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from cusa_jax.errors import InputError

T = TypeVar("T")
Choices = tuple[str, ...] | Callable[[], Iterable[str]]
_OPTION = "option"


@dataclasses.dataclass(frozen=True)
class Option:
    """What one key may be. A number lies in [low, high], or in (low, high] where `above` says so.

    choices: of a text; a function where they can grow, such as the names in a table. () takes any text.
    """

    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    choices: Choices = ()

    @property
    def allowed(self) -> tuple[str, ...]:
        """The texts to choose from; empty where any will do."""
        return tuple(self.choices()) if callable(self.choices) else self.choices


def number(
    default: float, help: str, *, low: float = -math.inf, high: float = math.inf, above: float | None = None
) -> Any:
    """A whole number or a float, as its default is. above: a lower bound that is itself excluded."""
    bound = {"low": low} if above is None else {"low": above, "above": True}
    return _field(Option(default, help, high=high, **bound))


def choice(default: str, help: str, choices: Choices) -> Any:
    """One of some texts."""
    return _field(Option(default, help, choices=choices))


def text(default: str, help: str) -> Any:
    """Any text, such as a path."""
    return _field(Option(default, help))


def switch(default: bool, help: str) -> Any:
    """On or off."""
    return _field(Option(default, help))


def section(kind: Callable[..., T], **changed: Any) -> Any:
    """Settings within settings; `changed` are the defaults that differ here."""
    return dataclasses.field(default_factory=lambda: kind(**changed))


def options(settings: Any, prefix: str = "") -> dict[str, Option]:
    """{'schedule.epochs': Option, …} of every key; defaults are the values of `settings`."""
    found: dict[str, Option] = {}
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), prefix + field.name
        if _OPTION in field.metadata:
            found[key] = dataclasses.replace(field.metadata[_OPTION], default=value)
        else:
            found |= options(value, f"{key}.")
    return found


def build(like: T, values: Mapping[str, Any]) -> T:
    """The settings of the type of `like` with these values, a nested mapping that holds every key."""
    made = {}
    for field in dataclasses.fields(like):  # type: ignore[arg-type]
        value = values[field.name]
        made[field.name] = value if _OPTION in field.metadata else build(getattr(like, field.name), value)
    return type(like)(**made)


def check(known: Mapping[str, Option], values: Mapping[str, Any]) -> None:
    """Raises InputError for the first key that does not exist or is missing, and the first value it cannot have."""
    for key in values:
        if key not in known:
            raise InputError(f"config has an unknown key '{key}'{nearest(key, known)}")
    for key, option in known.items():
        if key not in values:
            raise InputError(f"config lacks the key '{key}' (default {option.default!r})")
        _check_value(key, option, values[key])


def nearest(word: str, words: Iterable[str]) -> str:
    """' (did you mean X?)' for the closest of `words`, or ''."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _check_value(key: str, option: Option, value: Any) -> None:
    kind = type(option.default)
    fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"config.{key}={value!r} must be {kind.__name__}, such as {option.default!r}")
    if kind is str:
        if option.allowed and value not in option.allowed:
            hint = nearest(value, option.allowed)
            raise InputError(f"config.{key}='{value}' is none of {', '.join(option.allowed)}{hint}")
    elif kind is not bool:
        too_low = value <= option.low if option.above else value < option.low
        if too_low or value > option.high or not math.isfinite(value):
            raise InputError(f"config.{key}={value} must be {_bounds(option)}")


def _bounds(option: Option) -> str:
    said = []
    if option.low > -math.inf:
        said.append(f"above {option.low:g}" if option.above else f"at least {option.low:g}")
    if option.high < math.inf:
        said.append(f"at most {option.high:g}")
    return " and ".join([*said, "finite"])


def _field(option: Option) -> Any:
    return dataclasses.field(default=option.default, metadata={_OPTION: option})

"""Settings as frozen dataclasses: every key is declared once, with its default, its bounds and its meaning.

    @dataclasses.dataclass(frozen=True)
    class Schedule:
        epochs: int = number(40, "passes over the training captions", low=1)
        every: str = choice("epoch", "when the learning rate moves", ("epoch", "step"))

`options` lists the keys of such a tree, `check` compares values with them, `build` makes the tree of checked values.
A section whose keys can contradict each other has a method `check(key)`, which raises InputError where they do.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from cusa_jax.errors import InputError

T = TypeVar("T")
Choices = tuple[str, ...] | Callable[[], Iterable[str]]
_OPTION = "option"


@dataclasses.dataclass(frozen=True)
class Option:
    """What one key may be. A number lies between the bounds, which it may reach unless they are `above` and `below`.

    choices: of a text; a function where they can grow, such as the names in a table. () takes any text.
    """

    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: Choices = ()

    @property
    def allowed(self) -> tuple[str, ...]:
        """The texts to choose from; empty where any will do."""
        return tuple(self.choices()) if callable(self.choices) else self.choices

    @property
    def bounds(self) -> str:
        """In words, such as 'at least 0 and below 1'; '' where there are none."""
        words = {"at least": self.low, "above": self.above, "at most": self.high, "below": self.below}
        return " and ".join(f"{word} {bound:.10g}" for word, bound in words.items() if math.isfinite(bound))

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below


def number(default: float, help: str, **bounds: float) -> Any:
    """A finite number, whole where its default is. bounds: `low` and `high`, or `above` and `below`."""
    return _field(Option(default, help, **bounds))  # type: ignore[arg-type]


def choice(default: str, help: str, choices: Choices) -> Any:
    """One of some texts."""
    return _field(Option(default, help, choices=choices))


def string(default: str, help: str) -> Any:
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
    by_key: dict[str, Option] = {}
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), prefix + field.name
        if _OPTION in field.metadata:
            by_key[key] = dataclasses.replace(field.metadata[_OPTION], default=value)
        else:
            by_key |= options(value, f"{key}.")
    return by_key


def sections(settings: Any, key: str) -> Iterator[tuple[str, Any]]:
    """(key, section) of `settings` itself, which stands at `key`, and of all sections within it."""
    yield key, settings
    for field in dataclasses.fields(settings):
        if _OPTION not in field.metadata:
            yield from sections(getattr(settings, field.name), f"{key}.{field.name}")


def parsed(text: str, kind: type) -> Any:
    """A value of this type, int, float, str or bool ('true', 'false'). Raises ValueError where the text is none."""
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind not in (int, float, str):
        raise ValueError(f"'{text}' is no {kind.__name__}")
    return kind(text)


def build(like: T, values: Mapping[str, Any]) -> T:
    """The settings of the type of `like` with these values, a nested mapping that `check` has passed."""
    fields = {}
    for field in dataclasses.fields(like):  # type: ignore[arg-type]
        value, default = values[field.name], getattr(like, field.name)
        fields[field.name] = type(default)(value) if _OPTION in field.metadata else build(default, value)
    return type(like)(**fields)


def check(known: Mapping[str, Option], values: Mapping[str, Any]) -> None:
    """Raises InputError for the first key that does not exist or is missing, and the first value it cannot have."""
    for key in values:
        if key not in known:
            raise InputError(f"config has an unknown key '{key}'{nearest(key, known)}")
    for key, option in known.items():
        if key not in values:
            raise InputError(f"config lacks the key '{key}' (default {option.default!r})")
        _check_value(key, option, values[key])


def check_sections(settings: Any, key: str) -> None:
    """Raises InputError for the first section, of `settings` at `key`, whose own check finds a contradiction."""
    for name, part in sections(settings, key):
        if hasattr(part, "check"):
            part.check(name)


def nearest(word: str, words: Iterable[str]) -> str:
    """' (did you mean X?)' for the closest of `words`, or ''."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _check_value(key: str, option: Option, value: Any) -> None:
    kind = type(option.default)
    fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"config.{key}={value!r} must be {kind.__name__}, such as {option.default!r}")
    if kind is str and option.allowed and value not in option.allowed:
        hint = nearest(value, option.allowed)
        raise InputError(f"config.{key}='{value}' is none of {', '.join(option.allowed)}{hint}")
    if kind in (int, float) and not (option.contains(value) and math.isfinite(value)):
        bounds = " and ".join(filter(None, (option.bounds, "finite" if kind is float else "")))
        raise InputError(f"config.{key}={value} must be {bounds}")


def _field(option: Option) -> Any:
    return dataclasses.field(default=option.default, metadata={_OPTION: option})

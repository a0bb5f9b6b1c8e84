"""Settings declared as dataclasses: which keys they list, what they refuse and in which words, what they become."""

import dataclasses

import pytest

from cusa_jax.errors import InputError
from cusa_jax.settings import (
    build,
    check,
    check_sections,
    choice,
    nearest,
    number,
    options,
    section,
    sections,
    string,
    switch,
)

MODES = ["slow"]


@dataclasses.dataclass(frozen=True)
class Inner:
    low: float = number(-1.0, "lower end")
    high: float = number(1.0, "upper end", above=-2, high=2)

    def check(self, key):
        if self.low > self.high:
            raise InputError(f"{key}: low exceeds high")


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int = number(3, "how many", low=1, below=10)
    mode: str = choice("slow", "how", lambda: MODES)
    name: str = string("", "of what")
    on: bool = switch(True, "whether")
    inner: Inner = section(Inner, high=0.5)


def values(**changed):
    return {
        "count": 3,
        "mode": "slow",
        "name": "",
        "on": True,
        "inner.low": -1.0,
        "inner.high": 0.5,
    } | changed


def test_options_have_the_defaults_of_the_settings_that_they_are_listed_of():
    assert {key: option.default for key, option in options(Outer()).items()} == values()
    assert options(Outer(count=7))["count"].default == 7
    assert options(Outer())["inner.high"].help == "upper end"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": 0}, "config.count=0 must be at least 1 and below 10"),
        ({"count": 10}, "config.count=10 must be at least 1 and below 10"),
        ({"count": 2.0}, "config.count=2.0 must be int, such as 3"),
        ({"count": True}, "config.count=True must be int, such as 3"),
        ({"on": 1}, "config.on=1 must be bool, such as True"),
        ({"inner.low": float("-inf")}, "config.inner.low=-inf must be finite"),
        ({"inner.high": float("nan")}, "config.inner.high=nan must be above -2 and at most 2 and finite"),
        ({"inner.high": -2.0}, "config.inner.high=-2.0 must be above -2 and at most 2 and finite"),
        ({"mode": "slwo"}, r"config.mode='slwo' is none of slow \(did you mean 'slow'\?\)"),
        ({"inner.hihg": 1}, r"config has an unknown key 'inner.hihg' \(did you mean 'inner.high'\?\)"),
    ],
)
def test_values_that_cannot_be_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        check(options(Outer()), values(**changed))


def test_values_at_their_bounds_and_of_either_sign_are_taken():
    check(options(Outer()), values(count=9, **{"inner.high": 2, "inner.low": -1e9}))


def test_a_missing_key_is_named_with_its_default():
    with pytest.raises(InputError, match=r"config lacks the key 'on' \(default True\)"):
        check(options(Outer()), {key: value for key, value in values().items() if key != "on"})


def test_choices_can_grow():
    known = options(Outer())
    MODES.append("fast")
    try:
        check(known, values(mode="fast"))
    finally:
        MODES.remove("fast")


def test_built_settings_have_the_types_of_their_defaults():
    built = build(
        Outer(), {"count": 4, "mode": "x", "name": "n", "on": False, "inner": {"low": 0, "high": 1}}
    )
    assert built == Outer(4, "x", "n", False, Inner(0.0, 1.0))
    assert isinstance(built.inner.low, float)
    assert [key for key, _ in sections(built, "config")] == ["config", "config.inner"]


def test_sections_check_themselves():
    check_sections(Outer(), "config")
    with pytest.raises(InputError, match=r"config\.inner: low exceeds high"):
        check_sections(Outer(inner=Inner(low=3.0)), "config")


def test_the_nearest_word():
    assert nearest("wieght", ["weight", "width"]) == " (did you mean 'weight'?)"
    assert nearest("zzz", ["weight"]) == ""

"""Foreign text on a terminal: one line, nothing that a terminal would obey."""

import importlib

import pytest

from cusa_jax.errors import InputError, listed, needs, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a photo of 2 dogs – “größer”, 犬 🐕", "a photo of 2 dogs – “größer”, 犬 🐕"),
        ("a\nb\r\nc\td", r"a\nb\r\nc\td"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m\x85\u2028\u2029", r"\x9b31m\x85\u2028\u2029"),
        ("gpj.\u202eexe\u200b\ufeff", r"gpj.\u202eexe\u200b\ufeff"),
        ("\udcff\ud800.jpg", r"\udcff\ud800.jpg"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_not_visible_is_escaped(text, shown):
    assert one_line(text) == shown
    assert one_line(shown) == shown
    assert one_line(ValueError(text)) == shown


def test_an_extra_that_is_not_installed_is_named():
    with (
        pytest.raises(
            InputError, match=r"'nothing_of_this_name' is needed: pip install 'cusa_jax\[teachers\]'"
        ),
        needs("teachers"),
    ):
        importlib.import_module("nothing_of_this_name")


def test_a_long_list_is_counted():
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"

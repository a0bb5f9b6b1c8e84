"""JSON is read in one place: whatever is wrong with a file is one line that names it and the remedy."""

import json

import pytest

from cusa_jax import jsonfile
from cusa_jax.errors import InputError

DEEP = 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\x00", b'{"a": 1} x', b'{"a": \xff}', "{}".encode("utf-16"), b'{"a": NaN}', b'{"a": -Infinity}',
        b'{"a": 1e999}', b'{"a": "\\ud800"}', b'{"\\uDFFF": 1}', b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a":' * DEEP + b"1" + b"}" * DEEP, b"[" * DEEP, b'{"a":' * 65 + b"1" + b"}" * 65,
    ],
)  # fmt: skip
def test_damage_is_one_line(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json: not a readable JSON file \(.*\); do this") as error:
        jsonfile.read_json(path, "do this")
    assert len(str(error.value)) < 400
    with pytest.raises(InputError, match="somewhere: not a readable JSON file"):
        jsonfile.parse_json(content, "somewhere")


@pytest.mark.parametrize(
    ("content", "kind"), [("[]", "a list"), ('"x"', "a text"), ("1.5", "a number"), ("null", "null"), ("true", "true")]
)  # fmt: skip
def test_another_value_than_an_object_is_named(tmp_path, content, kind):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=rf"x\.json: holds {kind}.*not an object; bring it back"):
        jsonfile.read_json(tmp_path / "x.json")
    assert jsonfile.read_any_json(tmp_path / "x.json") == json.loads(content)


def test_what_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(InputError, match=f"{path}: cannot be read"):
            jsonfile.read_json(path)


def test_what_is_written_is_read(tmp_path):
    value = {"é": [1, 2.5, None, {"deep": [[["x"]]]}], "pair": "\U0001f415"}
    jsonfile.write_json(tmp_path / "x.json", value)
    assert jsonfile.read_json(tmp_path / "x.json") == value
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(value).encode())  # a Windows editor's
    assert jsonfile.read_json(tmp_path / "x.json") == value


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    jsonfile.write_json(path, {"a": 1})
    for value, error in ((object(), TypeError), (float("nan"), ValueError)):
        with pytest.raises(error):
            jsonfile.write_json(path, {"a": value})
    assert jsonfile.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_sizes_are_whole_numbers_within_bounds():
    assert jsonfile.size({"width": 64}, "width", "x") == jsonfile.size({"width": 64.0}, "width", "x") == 64
    assert jsonfile.size({}, "width", "x", 32) == 32
    for value in (0, -1, 2**63, -1e308, 1.5, True, "64", [64], None, 1025):
        with pytest.raises(InputError, match=r"x: layers is .*a whole number from 1 to 1024"):
            jsonfile.size({"layers": value}, "layers", "x", at_most=jsonfile.MOST_LAYERS)

"""Tables of captions, a layout from outside, and that data stand on their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cusa_jax.data.captions import read_captions
from cusa_jax.data.layouts import LAYOUTS, Layout, Row
from cusa_jax.data.splits import load_split
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Regions, Text

ROOT = Path(__file__).parents[2]


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


@pytest.mark.parametrize("image", ["image", "image_path", "file_name", "filepath"])
@pytest.mark.parametrize("caption", ["caption", "text", "title"])
def test_a_row_is_a_caption(tmp_path, image, caption):
    write(tmp_path, "val.csv", f"{caption},note,{image}\nOne,x,b.jpg\nTwo,,a.jpg\nThree,,b.jpg\n")
    table = read_captions(tmp_path, "val")
    assert table.image_ids == ["b.jpg", "a.jpg"]
    assert table.image_paths == [tmp_path / "b.jpg", tmp_path / "a.jpg"]
    assert table.captions == ["One", "Two", "Three"]
    np.testing.assert_array_equal(table.caption_image, [0, 1, 0])
    assert table.caption_ids is None


def test_what_spreadsheets_write_is_read(tmp_path):
    """BOM, CRLF, blank lines, quoted separators, quotation marks and line breaks, capitals in the header."""
    header = "\ufeffImage, Caption ,image_id,caption_id\r\n"
    content = header + 'a.jpg,"red, ""big""",7,12\r\n\r\n"b,c.jpg","two\r\nlines",8,3\r\n'
    table = read_captions(write(tmp_path, "train.csv", content), "train")
    assert table.captions == ['red, "big"', "two\r\nlines"]
    assert (table.image_ids, table.caption_ids.tolist()) == (["7", "8"], [12, 3])
    assert table.image_paths == [tmp_path / "a.jpg", tmp_path / "b,c.jpg"]
    tabs = write(tmp_path, "train.tsv", 'image\tcaption\na.jpg\tred, "big"\nb.jpg\t6\' long\n')
    assert read_captions(tabs, "train", image_root="/photos").captions == ['red, "big"', "6' long"]
    assert read_captions(tabs, "train", image_root="/photos").image_paths[0] == Path("/photos/a.jpg")


@pytest.mark.parametrize("name", ["captions.csv", "captions.tsv"])
def test_one_table_may_hold_all_splits(tmp_path, name):
    rows = [
        "image,caption,split",
        "a.jpg,a,train",
        "b.jpg,b,val",
        "c.jpg,c,restval",
        "d.jpg,d,test",
        "e.jpg,e,dev",
    ]
    separator = "," if name.endswith("csv") else "\t"
    write(tmp_path, name, "\n".join(rows).replace(",", separator))
    assert read_captions(tmp_path, "train").captions == ["a", "c"]
    assert read_captions(tmp_path, "val").captions == ["b", "e"]
    assert read_captions(tmp_path / name, "test").captions == ["d"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the header has no 'image' .or image_path, file_name, filepath.; its columns are none"),
        ("image;caption\na;b\n", "the header has no 'image' .*; its columns are image;caption"),
        ("image,words\na,b\n", "the header has no 'caption' .or captions, text, title.; its columns are image, words"),
        ("image,caption,Image\na,b,c\n", "the header names 'image' twice"),
        ("image,caption\n", "no captions of split 'train'"),
        ("image,caption,split\na,b,val\n", "no captions of split 'train'"),
        ("image,caption,split\na,b,trian\n", "line 2: split 'trian' is none of train, restval, val"),
        ("image,caption\na.jpg,red, big\n", "line 2: 3 fields, but the header names 2; put quotation marks"),
        ("image,caption\na.jpg\n", "line 2: 1 fields, but the header names 2"),
        ("image,caption\n,b\n", "line 2: 'image' is empty"),
        ("file_name,text,image_id\na.jpg,b,\n", "line 2: 'image_id' is empty"),
        ('image,caption\n"a.jpg","two\nlines"\nb.jpg,"c\n', "line 4: unexpected end of data; is a quotation mark"),
        ('image,caption\na.jpg,"b"c\n', "line 2: ',' expected after '\"'"),
        ("image,caption\na.jpg," + "b" * 200_000, "line 2: field larger than field limit"),
        ("image,caption\na.jpg,b\0c\n", "line 2: holds a NUL character"),
        ("image,caption\na.jpg,b\n".encode("utf-16"), "not UTF-8 .*save it as UTF-8"),
        (b"image,caption\na.jpg,caf\xe9\n", "not UTF-8 .*save it as UTF-8"),
        ("image,caption,caption_id\na.jpg,b,x\n", "line 2: 'caption_id' must be an integer, not 'x'"),
        ("image,caption,caption_id\na.jpg,b,4\na.jpg,c,4\n", "line 3: caption_id 4 is already that of line 2"),
        ("image,caption,image_id\na.jpg,b,4\nb.jpg,c,4\n", "line 3: image_id '4' has two paths"),
        ("image,caption,image_id\na.jpg,b,4\na.jpg,c,5\n", "several ids for the same image, 2 for 1 files"),
        ("image,caption\na\x1b.jpg,b\n", "line 2: the image's id has control characters"),
    ],
)  # fmt: skip
def test_broken_tables_are_named_with_their_line(tmp_path, content, message):
    file = write(tmp_path, "a.csv", content)
    with pytest.raises(InputError, match=rf"a\.csv: {message}") as raised:
        read_captions(file, "train")
    assert "\n" not in str(raised.value)


def test_a_file_of_no_layout_is_told_what_there_is(tmp_path):
    with pytest.raises(
        InputError, match=r"a\.txt: neither .*, nor a list of rows .*, nor a table \(\.csv, \.tsv\)"
    ):
        read_captions(write(tmp_path, "a.txt", "hello"), "train")


class Grid:
    """Features of regions, five captions an image, as files of the field have them."""

    def __init__(self, features):
        self.features, self.names = features, [f"image {n}" for n in range(len(features))]

    def __len__(self):
        return len(self.features)

    def read(self, image, *specs):
        return [self.features[image] for _ in specs]

    def picture(self, image):
        raise InputError("there are features only")


def read_lines(file, split, root):
    if not file.path.name.endswith("_lines.txt"):
        return None
    lines = file.path.read_text().splitlines()
    return (Row(f"line {n}", str(n // 2), root / str(n // 2), text, n) for n, text in enumerate(lines))


def open_features(file, split, table, inputs):
    return Grid(np.load(file.with_name(f"{split}_ims.npy"), mmap_mode="r")), None


def test_a_layout_from_outside_is_one_entry(tmp_path, monkeypatch):
    layout = Layout(
        "lines of captions", lambda split: [f"{split}_lines.txt"], read_lines, opens=open_features
    )
    inputs = Inputs(Regions(3, 2), Text(77, 49408))
    write(tmp_path, "dev_lines.txt", "a dog\na cat\nred\nblue\n")
    features = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    np.save(tmp_path / "dev_ims.npy", features)
    with pytest.raises(InputError, match="no captions of split 'dev'"):
        load_split(str(tmp_path), "dev", inputs, image_root="")
    monkeypatch.setitem(LAYOUTS, "precomp", layout)
    split = load_split(str(tmp_path), "dev", inputs, image_root="")
    assert split.captions == ["a dog", "a cat", "red", "blue"]
    assert split.table.caption_ids.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(split.images.read(1, inputs.image)[0], features[1])
    with pytest.raises(InputError, match=r"looked for prepared\.json, .*captions\.tsv, .*test_lines\.txt"):
        read_captions(tmp_path, "test")


def test_data_know_no_model(tmp_path):
    script = """
import sys
import cusa_jax.data.pipeline, cusa_jax.data.prepared, cusa_jax.data.records, cusa_jax.data.splits
print([name for name in sys.modules if name.startswith(("cusa_jax.models", "cusa_jax.teachers", "cusa_jax.config"))])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stdout + done.stderr

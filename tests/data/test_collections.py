"""Collections as tools write them: JSON Lines, folders of images with their metadata, tar shards."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from cusa_jax.data.captions import read_captions
from cusa_jax.data.images import load_image
from cusa_jax.data.splits import load_split
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels, Regions, Text

PIXELS = Pixels(16)
INPUTS = Inputs(PIXELS, Text(77, 49408))


def jpeg(seed):
    held = io.BytesIO()
    draw = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(draw).save(held, "JPEG")
    return held.getvalue()


def write_tar(file, members):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def write_lines(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_lines_of_json(tmp_path):
    write_lines(
        tmp_path / "val.jsonl",
        {"image": "a.jpg", "caption": ["one", "two"], "image_id": 7, "more": {"x": 1}},
        {"file_name": "b.jpg", "text": "three", "image_id": "8"},
    )
    table = read_captions(tmp_path, "val")
    assert (table.image_ids, table.captions) == (["7", "8"], ["one", "two", "three"])
    assert table.image_paths == [tmp_path / "a.jpg", tmp_path / "b.jpg"]


@pytest.mark.parametrize("folder", ["val", "validation", "dev"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_folder_of_images_with_its_metadata(tmp_path, folder, kind):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.jpg").write_bytes(jpeg(0))
    if kind == "csv":
        (tmp_path / folder / "metadata.csv").write_text("file_name,text\na.jpg,a photo\n")
    else:
        write_lines(tmp_path / folder / "metadata.jsonl", {"file_name": "a.jpg", "text": "a photo"})
    split = load_split(str(tmp_path), "val", INPUTS, image_root="")
    assert split.captions == ["a photo"]
    np.testing.assert_array_equal(
        split.images.read(0, PIXELS)[0], load_image(tmp_path / folder / "a.jpg", PIXELS)
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"val\.jsonl: line 2: not a readable JSON file"),
        ("[]", "line 2: expected an object with named fields"),
        (
            '{"image": "a.jpg"}',
            r"line 2 has no 'caption' \(or captions, text, title\); its columns are image",
        ),
        ('{"image": "a.jpg", "caption": {"en": "x"}}', "line 2: 'caption' must be a text, not"),
        ('{"image": null, "caption": "x"}', "line 2: 'image' is null"),
        ('{"image": "", "caption": "x"}', "line 2: 'image' is empty"),
        ('{"image": "a.jpg", "caption": "x", "split": "other"}', "line 2: split 'other' is none of train"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, said):
    (tmp_path / "val.jsonl").write_text('{"image": "b.jpg", "caption": "b"}\n' + line + "\n")
    with pytest.raises(InputError, match=said) as raised:
        read_captions(tmp_path, "val")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("split", ["", ', "split": null'])
def test_a_row_of_no_split_is_of_none(tmp_path, split):
    (tmp_path / "captions.jsonl").write_text('{"image": "b.jpg", "caption": "b"' + split + "}\n")
    with pytest.raises(InputError, match=r"captions\.jsonl: line 1: (has no 'split'|'split' must be a text)"):
        read_captions(tmp_path, "val")
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,b\n")
    (tmp_path / "captions.jsonl").unlink()
    with pytest.raises(InputError, match=r"captions\.csv: line 2: has no 'split'"):
        read_captions(tmp_path, "val")


def test_equal_names_in_folders_of_a_shard_are_two_images(tmp_path):
    members = {f"{n}/1.{kind}": content for n in "ab" for kind, content in (("jpg", jpeg(1)), ("txt", n))}
    write_tar(tmp_path / "val.tar", members)
    assert read_captions(tmp_path, "val").image_ids == ["a/1", "b/1"]


def test_tar_shards_are_read_where_they_lie(tmp_path):
    write_tar(
        tmp_path / "train" / "00000.tar",
        {"000000001.jpg": jpeg(1), "000000001.txt": " one \n", "000000001.json": '{"caption": "not this"}'},
    )
    members = {
        "000010002.json": '{"caption": "two", "status": "success"}',
        "000010002.webp": jpeg(2),
        "notes.md": "x",
    }
    write_tar(tmp_path / "train" / "00001.tar", members)
    write_tar(tmp_path / "train" / "other-00001.tar", {"9.jpg": jpeg(9), "9.txt": "of another collection"})
    split = load_split(str(tmp_path), "train", INPUTS, image_root="")
    assert split.captions == ["one", "two"]
    assert split.table.image_ids == ["000000001", "000010002"]
    for number, seed in enumerate((1, 2)):
        (tmp_path / "one.jpg").write_bytes(jpeg(seed))
        np.testing.assert_array_equal(
            split.images.read(number, PIXELS)[0], load_image(tmp_path / "one.jpg", PIXELS)
        )
    assert split.images.names[1].endswith("00001.tar/000010002.webp")
    with pytest.raises(InputError, match=r"000000001\.jpg: is a picture, and the model takes features"):
        split.images.read(0, Regions(2, 3))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a.jpg": b"x"}, r"a has an image, but neither a\.txt nor a caption in a\.json"),
        ({"a.jpg": b"x", "a.txt": b"\xff"}, r"val\.tar: a\.txt: not UTF-8"),
        ({"a.jpg": b"x", "a.json": "{"}, r"val\.tar: a\.json: not a readable JSON file"),
        ({"a.txt": "no image"}, "no captions of split 'val'"),
    ],
)
def test_a_shard_that_is_wrong_is_named(tmp_path, members, said):
    write_tar(tmp_path / "val.tar", members)
    with pytest.raises(InputError, match=said):
        read_captions(tmp_path, "val")


def test_a_damaged_shard_and_a_damaged_image(tmp_path):
    file = write_tar(tmp_path / "val.tar", {"a.jpg": b"no image", "a.txt": "a"})
    split = load_split(str(tmp_path), "val", INPUTS, image_root="")
    with pytest.raises(InputError, match=r"val\.tar/a\.jpg: not a readable image"):
        split.images.read(0, PIXELS)
    file.write_bytes(b"\x1f\x8b" + b"0" * 2000)
    with pytest.raises(InputError, match=r"val\.tar: not a readable, uncompressed tar file"):
        read_captions(tmp_path, "val")

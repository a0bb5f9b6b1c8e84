"""Collections that Hugging Face's `datasets` 5.2.0 wrote (goldens/datasets): saved in Arrow, and as Parquet.

Image n is PNG noise of numpy's seed n, 10 x 12 pixels, with the captions 'photo n' and 'picture n'; train has images 0
to 3, validation 4 and 5, test 6 and 7.
"""

import io
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import ipc, parquet

from cusa_jax.data.captions import read_captions
from cusa_jax.data.images import preprocess
from cusa_jax.data.layouts import arrow
from cusa_jax.data.splits import SPLITS, load_split
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels, Text

GOLDENS = Path(__file__).parents[1] / "goldens" / "datasets"
PIXELS = Pixels(8)
INPUTS = Inputs(PIXELS, Text(77, 49408))
NUMBERS = {"train": range(4), "val": (4, 5), "test": (6, 7)}


@pytest.fixture(autouse=True)
def _closed():
    """Files of one test are not those of another, whatever their names."""
    yield
    arrow._open_file.cache_clear()
    arrow._group.cache_clear()


def noise(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8))


def png(seed):
    held = io.BytesIO()
    noise(seed).save(held, "PNG")
    return held.getvalue()


@pytest.mark.parametrize("kind", ["saved", "hub"])
def test_what_datasets_wrote_is_read(kind):
    for name in SPLITS:
        split = load_split(str(GOLDENS / kind), name, INPUTS, image_root="")
        numbers = NUMBERS[name]
        assert split.captions == [f"{word} {n}" for n in numbers for word in ("photo", "picture")]
        assert split.table.caption_image.tolist() == [n for n in range(len(numbers)) for _ in range(2)]
        assert split.table.image_ids == [f"{n}.png" for n in numbers]
        images = pickle.loads(pickle.dumps(split.images))
        for place, number in reversed(list(enumerate(numbers))):
            np.testing.assert_array_equal(images.read(place, PIXELS)[0], preprocess(noise(number), PIXELS))


def test_one_saved_dataset_is_divided(tmp_path):
    shutil.copytree(GOLDENS / "saved" / "train", tmp_path / "photos")
    splits = {
        name: load_split(str(tmp_path / "photos"), name, INPUTS, image_root="", shares="50/25/25")
        for name in SPLITS
    }
    assert [len(split.images) for split in splits.values()] == [2, 1, 1]
    for split in splits.values():
        number = int(split.table.image_ids[-1].removesuffix(".png"))
        np.testing.assert_array_equal(
            split.images.read(len(split.images) - 1, PIXELS)[0], preprocess(noise(number), PIXELS)
        )


def write(file, **columns):
    table = pa.table(columns)
    if file.suffix == ".parquet":
        parquet.write_table(table, file, row_group_size=2)
    else:
        with ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    return file


@pytest.mark.parametrize("name", ["test.parquet", "data-00000-of-00001.arrow"])
def test_a_row_for_each_caption_with_ids_and_bytes_alone(tmp_path, name):
    write(
        tmp_path / name,
        image=[png(0), png(0), png(1), png(1), png(2)],
        image_id=[7, 7, 8, 8, 9],
        text=["a", "b", "c", "d", "e"],
        split=["test", "test", "test", "test", "train"],
    )
    split = load_split(str(tmp_path), "test", INPUTS, image_root="")
    assert (split.table.image_ids, split.captions) == (["7", "8"], ["a", "b", "c", "d"])
    assert split.table.caption_image.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(split.images.read(1, PIXELS)[0], preprocess(noise(1), PIXELS))


def test_paths_of_images(tmp_path):
    noise(3).save(tmp_path / "3.png")
    write(tmp_path / "test.parquet", image=["3.png"], caption=["three"])
    split = load_split(str(tmp_path), "test", INPUTS, image_root="")
    assert split.images.names == [str(tmp_path / "3.png")]
    np.testing.assert_array_equal(split.images.read(0, PIXELS)[0], preprocess(noise(3), PIXELS))


@pytest.mark.parametrize(
    "kind", ["saved/test/data-00000-of-00001.arrow", "hub/data/test-00000-of-00001.parquet"]
)
@pytest.mark.parametrize(
    "harm", [lambda data: data[:200], lambda data: b"", lambda data: b"\xff" * len(data)]
)
def test_damaged_files_are_named(tmp_path, kind, harm):
    source = GOLDENS / kind
    broken = tmp_path / ("test" + source.suffix)
    broken.write_bytes(harm(source.read_bytes()))
    with pytest.raises(InputError, match=rf"{broken}: not a readable"):
        read_captions(broken, "test")


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"image": [b""]}, "has no 'caption'"),
        ({"caption": ["a"]}, "has no 'image'"),
        ({"image": [b""], "caption": [3]}, "'caption' is no text"),
        ({"image": [b""], "caption": [[]]}, "no captions of split"),
        ({"image": [b""], "image_id": [""], "caption": ["a"]}, "'image_id' is empty"),
        ({"image": [b""], "caption": ["a"], "split": ["?"]}, "split '.' is none of"),
    ],
)
def test_columns_that_are_not_what_they_must_be(tmp_path, columns, told):
    with pytest.raises(InputError, match=told):
        read_captions(write(tmp_path / "test.parquet", **columns), "test")


def test_a_row_without_a_picture_is_named(tmp_path):
    images = pa.array(
        [{"bytes": None, "path": "x.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    write(tmp_path / "test.parquet", image=images, caption=["a"])
    split = load_split(str(tmp_path), "test", INPUTS, image_root="")
    with pytest.raises(InputError, match=r"x\.png: cannot be read \(the row holds no bytes"):
        split.images.read(0, PIXELS)


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'cusa_jax\[arrow\]'"):
        read_captions(GOLDENS / "saved", "test")

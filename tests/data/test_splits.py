"""Splits ready for the encoders: exact relevance beside the captions, and no training image among the evaluated."""

import json

import numpy as np
import pytest

from cusa_jax.data.prepared import prepare
from cusa_jax.data.splits import check_disjoint, check_present, load_split, provide
from cusa_jax.data.tokenize import VOCAB_SIZE
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels, Text

INPUTS = Inputs(Pixels(32), Text(77, VOCAB_SIZE))


def write(folder, split, images):
    rows = [{"image_path": f"{n}.jpg", "caption": f"photo {n}", "image_id": f"{split}{n}"} for n in images]
    (folder / f"{split}.json").write_text(json.dumps(rows))


def load(path):
    return {s: load_split(str(path), s, INPUTS, image_root="") for s in ("train", "val", "test")}


def test_a_training_image_in_validation_is_told(tmp_path, caplog):
    write(tmp_path, "train", range(4))
    write(tmp_path, "val", [3, 4])
    write(tmp_path, "test", [5])
    check_disjoint(load(tmp_path), "photos")
    assert caplog.messages == ["photos: 1 of 2 images of 'val' are training images"]


def test_one_flat_file_is_no_dataset(tmp_path):
    write(tmp_path, "train", range(4))
    with pytest.raises(InputError, match=r"every image of split 'val' is a training image; .* folder"):
        check_disjoint(load(tmp_path / "train.json"), "photos")


def test_what_is_not_there_is_told_before_anything_is_read(tmp_path):
    none = {"train": 0, "val": 5, "test": 5}
    write(tmp_path, "train", range(4))
    write(tmp_path, "val", [4])
    with pytest.raises(InputError, match="no captions of split 'test'"):
        provide(str(tmp_path), none)
    write(tmp_path, "test", [5])
    provide(str(tmp_path), none)


def test_the_embedded_world_is_written_where_it_is_asked_for(tmp_path):
    sizes = {"train": 4, "val": 2, "test": 2}
    folder = str(tmp_path / "world")
    provide(folder, sizes)
    inputs = Inputs(Pixels(32), INPUTS.text)
    splits = {name: load_split(folder, name, inputs, image_root="") for name in sizes}
    assert {name: len(split.images) for name, split in splits.items()} == sizes
    prepare(tmp_path / "prepared", splits, inputs)
    provide(str(tmp_path / "prepared"), sizes)
    with pytest.raises(InputError, match=r"world\.json: sizes is .*, not "):
        provide(folder, {**sizes, "train": 5})


def test_relevance_beside_the_captions(tmp_path):
    write(tmp_path, "val", range(2))
    assert load_split(str(tmp_path), "val", INPUTS, image_root="").relevance is None
    np.save(tmp_path / "val_relevance.npy", np.eye(2, dtype=bool))
    found = load_split(str(tmp_path), "val", INPUTS, image_root="").relevance
    np.testing.assert_array_equal(found, np.eye(2, dtype=bool))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.eye(3, dtype=bool), r"bool \(3, 3\), but the split needs bool \(2, 2\)"),
        (np.eye(2), r"float64 \(2, 2\), but"),
        (np.array([[print]]), "not a readable array"),
    ],
)
def test_unfit_relevance_is_refused(tmp_path, array, message):
    write(tmp_path, "val", range(2))
    np.save(tmp_path / "val_relevance.npy", array)
    with pytest.raises(InputError, match=f"val_relevance.npy: {message}"):
        load_split(str(tmp_path), "val", INPUTS, image_root="")


def test_an_image_that_is_not_there_is_named_before_a_training(tmp_path):
    write(tmp_path, "test", [5, 6])
    (tmp_path / "5.jpg").touch()
    split = load_split(str(tmp_path), "test", INPUTS, image_root="")
    with pytest.raises(
        InputError, match=r"1 of 2 images not found: \S*/6\.jpg; check data.path and data.image_root"
    ):
        check_present([split])
    (tmp_path / "6.jpg").touch()
    check_present([split])

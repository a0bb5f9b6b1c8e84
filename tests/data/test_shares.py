"""Captions divided into splits by image."""

import csv
import random

import numpy as np
import pytest
from PIL import Image

from cusa_jax.data.captions import read_captions
from cusa_jax.data.prepared import prepare
from cusa_jax.data.shares import part
from cusa_jax.data.splits import SPLITS, check_disjoint, check_present, load_split, provide, read_split
from cusa_jax.data.tokenize import VOCAB_SIZE
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels, Text

INPUTS = Inputs(Pixels(8), Text(77, VOCAB_SIZE))
NO_WORLD = {"train": 0, "val": 0, "test": 0}


def write(folder, images=20, captions=3, seed=None):
    """captions.csv, without a column 'split'; in another order by seed."""
    rows = [(f"{n}.png", f"photo {n} in words {k}") for n in range(images) for k in range(captions)]
    if seed is not None:
        random.Random(seed).shuffle(rows)
    folder.mkdir(exist_ok=True)
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    for n in range(images):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(folder / f"{n}.png")
    return folder


def load(folder, shares="80/10/10"):
    return {name: load_split(str(folder), name, INPUTS, image_root="", shares=shares) for name in SPLITS}


def test_each_image_is_in_one_split_with_all_its_captions(tmp_path):
    splits = load(write(tmp_path))
    check_disjoint(splits, "photos")
    check_present(splits.values())
    assert [len(splits[name].images) for name in SPLITS] == [16, 2, 2]
    assert [len(splits[name].captions) for name in SPLITS] == [48, 6, 6]
    seen = []
    for split in splits.values():
        for number, name in enumerate(split.images.names):
            mine = [split.captions[n] for n in np.flatnonzero(split.table.caption_image == number)]
            image = name.rpartition("/")[2].removesuffix(".png")
            assert mine == [f"photo {image} in words {k}" for k in range(3)]
            assert split.images.read(number, INPUTS.image)[0][0, 0, 0] == int(image)
            seen.append(int(image))
    assert sorted(seen) == list(range(20))


def test_the_division_depends_on_the_ids_and_its_seed_alone(tmp_path):
    here, there = write(tmp_path / "here"), write(tmp_path / "there", seed=1)

    def ids(folder, shares):
        return {name: set(split.table.image_ids) for name, split in load(folder, shares).items()}

    assert ids(here, "80/10/10") == ids(there, "80/10/10") == ids(here, "80/10/10@0")
    assert ids(here, "80/10/10") != ids(here, "80/10/10@1")


def test_whoever_is_to_see_it_finds_the_same_split(tmp_path):
    ours, loaded = read_split(write(tmp_path), "val", shares="80/10/10"), load(tmp_path)["val"]
    assert ours.table.captions == loaded.table.captions
    assert ours.images(INPUTS).names == loaded.images.names


def test_a_divided_folder_is_prepared(tmp_path):
    splits = load(write(tmp_path / "photos"))
    prepare(tmp_path / "prepared", splits, INPUTS)
    again = {name: load_split(str(tmp_path / "prepared"), name, INPUTS, image_root="") for name in SPLITS}
    for name in SPLITS:
        assert again[name].captions == splits[name].captions
        np.testing.assert_array_equal(
            again[name].images.read(1, INPUTS.image), splits[name].images.read(1, INPUTS.image)
        )
    with pytest.raises(
        InputError, match=r"was divided when it was prepared; leave .*data\.split='8/1/1' out"
    ):
        provide(str(tmp_path / "prepared"), NO_WORLD, "8/1/1")


def test_pictures_seen_as_shown_wherever_they_lie(tmp_path):
    folder = write(tmp_path / "photos", images=3, captions=1)
    lying = Image.new("RGB", (8, 8), "black")
    lying.paste("white", (0, 0, 4, 8))
    turned = Image.Exif()
    turned[0x112] = 6
    lying.save(folder / "1.png", exif=turned)

    def top_left(path, **options):
        split = load_split(str(path), "train", INPUTS, image_root="", **options)
        place = split.table.image_ids.index("1.png")
        return split.images.read(place, INPUTS.image)[0][:, :, 0]

    upright, as_it_lies = top_left(folder, shown=True), top_left(folder)
    assert upright[:4].all()
    assert not upright[4:].any()
    assert as_it_lies[:, :4].all()
    splits = {
        name: load_split(str(folder), name, INPUTS, image_root="", shares="34/33/33", shown=True)
        for name in SPLITS
    }
    prepare(tmp_path / "prepared", splits, INPUTS)
    prepare(tmp_path / "prepared", splits, INPUTS)
    load_split(str(tmp_path / "prepared"), "val", INPUTS, image_root="", shown=True)
    with pytest.raises(InputError, match=r"was prepared with config\.data\.as_shown=True; set that"):
        load_split(str(tmp_path / "prepared"), "val", INPUTS, image_root="")
    others = {
        name: load_split(str(folder), name, INPUTS, image_root="", shares="34/33/33") for name in SPLITS
    }
    with pytest.raises(
        InputError, match=r"was prepared with config\.data\.as_shown=True; set that, name another"
    ):
        prepare(tmp_path / "prepared", others, INPUTS)


def test_only_the_captions_of_the_training_split_are_looked_for(tmp_path):
    (write(tmp_path) / "captions.csv").rename(tmp_path / "train.csv")
    provide(str(tmp_path), NO_WORLD, "80/10/10")
    with pytest.raises(InputError, match="no captions of split 'val'"):
        provide(str(tmp_path), NO_WORLD)


@pytest.mark.parametrize(
    "shares", ["90/5", "90/5/6", "90/5/-5", "a/b/c", "90/5/5@", "33.3/33.3/33.4", "90/5/5 "]
)
def test_shares_that_are_none(tmp_path, shares):
    with pytest.raises(InputError, match="percentages of train, val and test that add up to 100"):
        part(read_captions(write(tmp_path, images=2), "train"), "train", shares)


@pytest.mark.parametrize("shares", ["100/0/0", "98/1/1"])
def test_a_split_without_images_is_refused(tmp_path, shares):
    with pytest.raises(InputError, match="leaves a split without images: there are 20"):
        part(read_captions(write(tmp_path), "train"), "val", shares)


def test_fewer_training_images_with_all_their_captions(tmp_path):
    folder = write(tmp_path)

    def train(images, shares="80/10/10"):
        return load_split(str(folder), "train", INPUTS, image_root="", shares=shares, images=images)

    few, more, whole = (train(images) for images in (3, 8, 0))
    assert [len(split.table.image_ids) for split in (few, more, whole)] == [3, 8, 16]
    assert set(few.table.image_ids) < set(more.table.image_ids) < set(whole.table.image_ids)
    assert len(few.captions) == len(few.tokens) == 9
    for number, name in enumerate(few.images.names):
        mine = [few.captions[n] for n in np.flatnonzero(few.table.caption_image == number)]
        assert mine == [
            f"photo {name.rpartition('/')[2].removesuffix('.png')} in words {k}" for k in range(3)
        ]
    with pytest.raises(InputError, match=r"train_images=17: there are 16"):
        train(17)

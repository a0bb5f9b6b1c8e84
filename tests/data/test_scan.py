"""SCAN's folders of region features: numbers, regions once or five times, and what does not belong together."""

import concurrent.futures
import re

import numpy as np
import pytest
from PIL import Image

from cusa_jax.data import scan
from cusa_jax.data.captions import read_captions
from cusa_jax.data.layouts.scan import RegionImages
from cusa_jax.data.splits import load_split, read_split
from cusa_jax.data.tokenize import VOCAB_SIZE
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels, Regions, Text

IMAGES, REGIONS, WIDTH = 3, 4, 5


def folder(path, *, name="train", features=None, captions=None, ids=None):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(IMAGES, REGIONS, WIDTH)).astype(np.float32) if features is None else features
    np.save(path / f"{name}_ims.npy", features)
    captions = [f"caption {n} of image {n // 5}" for n in range(5 * IMAGES)] if captions is None else captions
    (path / f"{name}_caps.txt").write_bytes("".join(f"{line} \n" for line in captions).encode())
    if ids is not None:
        (path / f"{name}_ids.txt").write_text("\n".join(ids) + "\n")
    return features


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_each_image_has_five_captions(tmp_path, dtype):
    features = folder(tmp_path).astype(dtype)
    np.save(tmp_path / "train_ims.npy", features)
    split = scan.read_split(tmp_path, "train")
    assert split.captions[7] == "caption 7 of image 1"
    assert split.caption_image.tolist() == [n // 5 for n in range(15)]
    assert split.ids == ["0", "1", "2"]
    for n in range(IMAGES):
        regions = split.features.read(n)
        assert regions.dtype == np.float32
        np.testing.assert_array_equal(regions, features[n].astype(np.float32))


def test_images_repeated_five_times_are_read_once(tmp_path):
    features = folder(tmp_path)
    np.save(tmp_path / "train_ims.npy", features.repeat(5, axis=0))
    (tmp_path / "train_ids.txt").write_text("".join(f"image {n // 5}\n" for n in range(15)))
    split = scan.read_split(tmp_path, "train")
    assert (split.features.images, split.features.repeated) == (IMAGES, 5)
    assert split.caption_image.tolist() == [n // 5 for n in range(15)]
    assert split.ids == [f"image {n}" for n in range(IMAGES)]
    np.testing.assert_array_equal(split.features.read(2), features[2])


def test_one_caption_an_image(tmp_path):
    features = np.random.default_rng(1).normal(size=(10, REGIONS, WIDTH)).astype(np.float32)
    folder(tmp_path, features=features, captions=[f"caption {n}" for n in range(10)])
    split = scan.read_split(tmp_path, "train")
    assert split.caption_image.tolist() == list(range(10))
    np.testing.assert_array_equal(split.features.read(9), features[9])


def test_splits_by_our_names(tmp_path):
    assert scan.split_name(tmp_path, "val") is None
    for name in ("dev", "test"):
        folder(tmp_path, name=name)
    assert scan.split_name(tmp_path, "val") == "dev"
    assert scan.split_name(tmp_path, "test") == "test"
    folder(tmp_path, name="testall")
    assert scan.split_name(tmp_path, "test") == "testall"
    assert scan.split_name(tmp_path, "train") is None


def test_an_image_is_read_without_parsing_the_file_again(tmp_path, monkeypatch):
    features = folder(tmp_path, features=np.arange(60, dtype=">f4").reshape(IMAGES, REGIONS, WIDTH))
    split = scan.read_split(tmp_path, "train")
    assert isinstance(scan._open(split.features.file), np.memmap)
    monkeypatch.setattr(np, "load", None)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for image, read in enumerate(pool.map(split.features.read, range(IMAGES))):
            np.testing.assert_array_equal(read, features[image])


def test_a_file_that_changes_under_a_training(tmp_path):
    folder(tmp_path)
    split = scan.read_split(tmp_path, "train")
    file = tmp_path / "train_ims.npy"
    file.write_bytes(file.read_bytes()[:-8])
    split.features.read(1)
    with pytest.raises(InputError, match="ends before image 2"):
        split.features.read(2)
    file.unlink()
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        split.features.read(0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"captions": ["a"] * 14}, "3 images, but .*train_caps.txt has 14 captions"),
        ({"captions": []}, "holds no captions"),
        ({"captions": ["a"] * 6 + [" "] + ["a"] * 8}, "line 7 is empty"),
        ({"features": np.zeros((3, 4), np.float32)}, r"float32 \(3, 4\), and features are"),
        ({"features": np.zeros((3, 4, 5), np.int32)}, "int32"),
        ({"features": np.asfortranarray(np.ones((3, 4, 5), np.float32))}, "Fortran"),
        ({"features": np.array([None] * 3, object)}, "not a readable .npy file"),
        ({"ids": ["a", "b"]}, "2 ids, but there are 3 images"),
        ({"ids": ["a", "b", "a"]}, "two images have the id 'a'"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, change, complaint):
    folder(tmp_path, **change)
    with pytest.raises(InputError, match=complaint) as error:
        scan.read_split(tmp_path, "train")
    assert re.match(rf"{tmp_path}/[^\n]*$", str(error.value))


def test_broken_features_name_the_image(tmp_path):
    features = folder(tmp_path)
    features[1, 2, 3] = np.nan
    np.save(tmp_path / "train_ims.npy", features)
    split = scan.read_split(tmp_path, "train")
    split.features.read(0)
    with pytest.raises(InputError, match="image 1 has features"):
        split.features.read(1)
    np.save(tmp_path / "train_ims.npy", features)
    data = (tmp_path / "train_ims.npy").read_bytes()
    (tmp_path / "train_ims.npy").write_bytes(data[:-8])
    with pytest.raises(InputError, match="cut short"):
        scan.read_split(tmp_path, "train")
    (tmp_path / "train_caps.txt").write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(InputError, match="line 2: not UTF-8"):
        scan.read_split(tmp_path, "train")


def test_another_shape_than_the_models_is_refused(tmp_path):
    folder(tmp_path)
    features = scan.read_split(tmp_path, "train").features
    scan.check_regions(features, REGIONS, WIDTH)
    with pytest.raises(InputError, match="4 regions of 5 an image, but the model takes 36 of 2048"):
        scan.check_regions(features, 36, 2048)


SPEC = Regions(REGIONS, WIDTH)


def opened(path, split="train", image=SPEC):
    return read_split(path, split).images(Inputs(image, Text(12, 20)))


def test_the_layout_reads_captions_ids_and_regions(tmp_path):
    features = folder(tmp_path, name="dev", ids=["a", "b", "c"])
    (tmp_path / "dev_capids.txt").write_text("".join(f"{100 + n}\n" for n in range(15)))
    table = read_captions(tmp_path, "val")
    assert table.image_ids == ["a", "b", "c"]
    assert table.captions[7] == "caption 7 of image 1"
    assert table.caption_image.tolist() == [n // 5 for n in range(15)]
    assert table.caption_ids.tolist() == list(range(100, 115))
    images = opened(tmp_path, "val")
    assert len(images) == len(images.names) == IMAGES
    np.testing.assert_array_equal(images.read(2, SPEC)[0], features[2])


def test_images_without_ids_are_others_in_every_split(tmp_path):
    for name in ("train", "dev"):
        folder(tmp_path, name=name)
    assert not set(read_captions(tmp_path, "train").image_paths) & set(
        read_captions(tmp_path, "val").image_paths
    )
    assert read_captions(tmp_path, "train").caption_ids is None


def test_pictures_lie_where_the_ids_say_or_nowhere(tmp_path):
    folder(tmp_path, ids=["a.png", "b.png", "c.png"])
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8), "red").save(photos / "b.png")
    paths = read_captions(tmp_path, "train", image_root=photos).image_paths
    assert paths[1] == photos / "b.png"
    images = RegionImages(scan.read_split(tmp_path, "train").features, paths)
    assert images.picture(1).getpixel((0, 0)) == (255, 0, 0)
    regions, pixels = images.read(1, SPEC, Pixels(4))
    assert regions.shape == (REGIONS, WIDTH)
    assert pixels.shape == (4, 4, 3)
    with pytest.raises(InputError, match=r"a\.png: image not found"):
        images.picture(0)
    with pytest.raises(InputError, match=r"holds features, and a\.png is no picture beside it"):
        images.read(0, Pixels(4))


def test_a_picture_beside_regions_is_seen_as_shown(tmp_path):
    """Turned by its EXIF: as the pixels lie, the left half is white; as viewers show it, the upper."""
    folder(tmp_path, ids=["a.png", "b.png", "c.png"])
    lying, turned = Image.new("RGB", (8, 8)), Image.Exif()
    lying.paste("white", (0, 0, 4, 8))
    turned[0x112] = 6
    lying.save(tmp_path / "a.png", exif=turned)
    inputs = Inputs(SPEC, Text(12, VOCAB_SIZE))
    for shown, side in ((False, np.s_[:, :4]), (True, np.s_[:4])):
        images = load_split(tmp_path, "train", inputs, image_root="", shown=shown).images
        assert images.read(0, Pixels(8))[0][side].all()
        assert images.read(0, Pixels(8))[0].mean() == 127.5


def test_what_a_model_cannot_take_is_told_before_it_is_read(tmp_path):
    folder(tmp_path)
    with pytest.raises(InputError, match="4 regions of 5 an image, but the model takes 36 of 2048"):
        opened(tmp_path, image=Regions(36, 2048))
    with pytest.raises(InputError, match="features of regions, and the model takes pictures"):
        opened(tmp_path, image=Pixels(8))
    (tmp_path / "train_capids.txt").write_text("1\n")
    with pytest.raises(InputError, match=r"train_capids\.txt: 1 ids, but there are 15 captions"):
        read_captions(tmp_path, "train")

"""Image sources: files in every form that is asked for, and a source of regions that the pipeline has never seen."""

import dataclasses
import pickle

import numpy as np
import pytest
from absl import flags
from PIL import Image

from cusa_jax.data import sources
from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.layouts.shards import ShardImages
from cusa_jax.data.pipeline import image_batches, train_batches
from cusa_jax.data.sources import ImageFiles
from cusa_jax.data.splits import Split
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels, Regions, Text

REGIONS = Regions(count=4, width=6)
IMAGES = 5


@pytest.fixture
def files(tmp_path):
    for n in range(IMAGES):
        noise = np.random.default_rng(n).integers(0, 256, (20 + n, 31, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{n}.png")
    return ImageFiles([tmp_path / f"{n}.png" for n in range(IMAGES)])


@dataclasses.dataclass(frozen=True)
class RegionFile:
    """What a newcomer writes: features in one .npy, mapped in each process; the pictures beside it for teachers."""

    path: str
    files: ImageFiles

    @property
    def names(self):
        return self.files.names

    def __len__(self):
        return len(self.files)

    def read(self, image, *specs):
        return [
            np.load(self.path, mmap_mode="r")[image]
            if isinstance(spec, Regions)
            else self.files.read(image, spec)[0]
            for spec in specs
        ]

    def picture(self, image):
        return self.files.picture(image)


def test_some_images_are_seen_as_shown_wherever_they_lie(tmp_path):
    """Of a source that is not files: a karpathy split in tar shards, say."""
    lying, turned, shard = Image.new("RGB", (8, 8)), Image.Exif(), tmp_path / "photos"
    lying.paste("white", (0, 0, 4, 8))
    turned[0x112] = 6
    lying.save(shard, "PNG", exif=turned)
    images = ShardImages(["a", "b"], [shard] * 2, [(0, 0), (0, shard.stat().st_size)])
    some = sources.selected(images, np.array([1]))
    upright = sources.as_shown(some, True)
    assert np.asarray(upright.picture(0))[:4].all()
    assert np.asarray(sources.as_shown(upright, False).picture(0))[:, :4].all()


@pytest.fixture
def regions(tmp_path, files):
    """(the features themselves, the source that reads them)"""
    features = np.random.default_rng(9).normal(size=(IMAGES, 4, 6)).astype(np.float32)
    np.save(tmp_path / "regions.npy", features)
    return features, RegionFile(str(tmp_path / "regions.npy"), files)


def test_an_image_is_decoded_once_for_all_that_is_asked(files, monkeypatch):
    opened, open_image = [], sources.open_image
    monkeypatch.setattr(
        sources, "open_image", lambda path, *how: opened.append(path) or open_image(path, *how)
    )
    crop, squash = files.read(2, Pixels(8), Pixels(6, resize="squash"))
    assert opened == [files.paths[2]]
    np.testing.assert_array_equal(crop, files.read(2, Pixels(8))[0])
    picture = files.picture(2)
    assert picture.size == (31, 22)
    expected = picture.resize((6, 6), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(squash, np.asarray(expected))


@pytest.mark.parametrize("resampling", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_every_way_to_resize_is_pillow_s(files, resize, resampling):
    picture, way = files.picture(0), Image.Resampling[resampling.upper()]
    expected = picture.resize((12, 12), way)
    if resize == "crop":  # 31 x 20: the long side is cut to int(12 * 31 / 20) = 18
        expected = picture.resize((18, 12), way).crop((3, 0, 15, 12))
    found = files.read(0, Pixels(12, resize=resize, resampling=resampling))[0]
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_mean_and_std_are_the_device_s():
    other = Pixels(8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert other != Pixels(8)
    assert other.on_host == Pixels(8).on_host
    assert Pixels(8, resize="squash").on_host != Pixels(8).on_host
    with pytest.raises(InputError, match="resized by crop, squash, not by 'stretch'"):
        Pixels(8, resize="stretch")
    with pytest.raises(InputError, match=r"resized by bicubic, .*, not by 'cubic'"):
        Pixels(8, resampling="cubic")


def test_files_are_sent_to_other_processes_and_hold_no_regions(files):
    again = pickle.loads(pickle.dumps(files))
    assert (len(again), again.names) == (IMAGES, [str(path) for path in files.paths])
    with pytest.raises(InputError, match=r"3\.png: is a picture, and the model takes features of regions"):
        again.read(3, REGIONS)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_student_of_regions_needs_a_source_and_nothing_else(regions, workers):
    flags.FLAGS(["test"], known_only=True)  # the workers read absl's flags
    features, source = regions
    table = CaptionTable(
        [str(n) for n in range(IMAGES)], [], ["a"] * IMAGES, np.arange(IMAGES, dtype=np.int32), None
    )
    split = Split(table, table.captions, np.ones((IMAGES, 8), np.int32), None, source)
    inputs = Inputs(REGIONS, Text(8, 10))
    iterator = train_batches(split, inputs, batch_size=4, seed=1, teacher_image=Pixels(6), workers=workers)
    batch = next(iterator)
    iterator.close()
    assert batch.image.dtype == np.float32
    np.testing.assert_array_equal(batch.image, features[batch.image_index])
    pixels = [source.read(image, Pixels(6))[0] for image in batch.image_index]
    np.testing.assert_array_equal(batch.teacher_image, pixels)
    numbers, rows = zip(*image_batches(source, REGIONS, batch_size=2, workers=workers), strict=True)
    np.testing.assert_array_equal(np.concatenate(numbers), np.arange(IMAGES))
    np.testing.assert_array_equal(np.concatenate(rows)[:IMAGES], features)

"""SCAN's folders of one's own images: what is written is what SCAN's reader finds, and nothing is half-written."""

from pathlib import Path

import numpy as np
import pytest

from cusa_jax.data import region_writer, scan
from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.errors import InputError


def table(captions=(5, 4, 6)):
    owner = np.repeat(np.arange(len(captions)), captions).astype(np.int32)
    texts = [f"caption {n}\nof {image}" for n, image in enumerate(owner)]
    names = [f"image{n}.jpg" for n in range(len(captions))]
    return CaptionTable(names, [Path("/photos") / name for name in names], texts, owner, None)


def numbered(numbers):
    """Features that say whose they are, in two batches, the last one first."""
    rows = np.repeat(numbers, 6).reshape(-1, 2, 3).astype(np.float32)
    for at in (np.arange(1, len(numbers)), np.arange(1)):
        yield at, rows[at]


def test_what_is_written_is_what_is_read(tmp_path):
    assert region_writer.write_split(tmp_path, "val", table(), numbered) == 1
    read = scan.read_split(tmp_path, "dev")
    assert read.ids == ["image0.jpg", "image2.jpg"]
    assert read.captions == [
        *(f"caption {n} of 0" for n in range(5)),
        *(f"caption {n} of 2" for n in range(9, 14)),
    ]
    assert (read.features.read(0) == 0).all()
    assert (read.features.read(1) == 2).all()


def test_a_split_that_is_there_is_not_encoded_again(tmp_path):
    region_writer.write_split(tmp_path, "val", table(), numbered)
    assert region_writer.write_split(tmp_path, "val", table(), lambda _: pytest.fail("encoded again")) == 1
    # One that was stopped before its last file is.
    (tmp_path / "dev_pooled.npz").unlink()
    region_writer.write_split(tmp_path, "val", table(), numbered)
    with np.load(tmp_path / "dev_pooled.npz", allow_pickle=False) as pooled:
        assert pooled["ids"].tolist() == ["image0.jpg", "image2.jpg"]
        np.testing.assert_array_equal(pooled["features"], [[0.0] * 3, [2.0] * 3])


def test_standardised_by_the_training_images(tmp_path):
    rng = np.random.default_rng(0)
    raw = {split: rng.normal(3, 2, (2, 2, 3)).astype(np.float32) for split in ("train", "val", "test")}
    raw["train"][..., 1] = 7
    for split, rows in raw.items():
        region_writer.write_split(
            tmp_path / "raw", split, table(), lambda n, rows=rows: [(np.arange(2), rows)]
        )
    (tmp_path / "out").mkdir()
    region_writer.standardise(tmp_path / "raw", tmp_path / "out")
    mean, deviation = raw["train"].mean((0, 1)), raw["train"].std((0, 1))
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test")):
        held = scan.read_split(tmp_path / "out", name)
        expected = (raw[split] - mean) / np.where(deviation, deviation, np.inf)
        found = np.stack([held.features.read(n) for n in range(2)])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert held.ids == ["image0.jpg", "image2.jpg"]


def test_grid_means_are_torchs_adaptive_averages():
    patches = np.arange(49.0).reshape(1, 49, 1)
    # By hand: of rows and columns 0-2, 2-4 and 4-6 of 7.
    expected = [7 * row + column for row in (1, 3, 5) for column in (1, 3, 5)]
    np.testing.assert_allclose(region_writer.grid_means(patches, 3)[0, :, 0], expected)
    np.testing.assert_array_equal(region_writer.grid_means(patches, 7), patches)
    for grid, count in ((8, 49), (2, 50)):
        with pytest.raises(InputError, match=rf"--grid={grid}: the model has {count} patches"):
            region_writer.grid_means(np.zeros((1, count, 2)), grid)


def test_names_that_the_layout_cannot_hold(tmp_path):
    broken = table()
    broken.image_ids[0] = "image\n0.jpg"
    with pytest.raises(InputError, match=r"image id 'image\\n0.jpg': SCAN's layout has one id a line"):
        region_writer.write_split(tmp_path, "val", broken, numbered)
    with pytest.raises(InputError, match=r"a/1.jpg and b/1.png would both have 1.npz"):
        next(region_writer.detected(tmp_path, ["a/1.jpg", "b/1.png"]))
    assert not list(tmp_path.iterdir())


def test_missing_features_leave_nothing(tmp_path):
    with pytest.raises(InputError, match="1 of 2 images have no features"):
        region_writer.write_split(tmp_path, "train", table(), lambda numbers: [next(iter(numbered(numbers)))])
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no image has 5 captions"):
        region_writer.chosen(table((4, 3)))


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (
            {"features": np.ones((3, 4), np.float32)},
            r"\[3, 4\] regions and numbers, but the first file has \[2, 4\]",
        ),
        ({"x": np.full((2, 4), np.nan, np.float32)}, "needs finite"),
        ({"boxes": np.ones((2, 4), np.float32)}, "needs finite"),
        (None, r"b\.npz: no such file"),
    ],
)
def test_files_of_a_detector(tmp_path, second, complaint):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 4), np.float64))
    if second is not None:
        np.savez(tmp_path / "b.npz", **second)
    files = region_writer.detected(tmp_path, ["a.jpg", "b.jpg"])
    number, regions = next(files)
    assert number.tolist() == [0]
    assert regions.dtype == np.float32
    assert regions.shape == (1, 2, 4)
    with pytest.raises(InputError, match=complaint):
        next(files)

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

"""Which test split is the paper's, and that its figures are those of the paper's table 8."""

from pathlib import Path

import numpy as np
import pytest

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.evaluation.metrics import RECALLS
from cusa_jax.report import published


def table(names, captions_each=5):
    captions = ["c"] * (captions_each * len(names))
    rows = np.repeat(np.arange(len(names), dtype=np.int32), captions_each)
    return CaptionTable(names, [Path("/data", name) for name in names], captions, rows, None)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"flickr30k-images/{n}.jpg" for n in range(1000)], "flickr30k"),
        ([f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(5000)], "coco5k"),
        ([f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(1000)], None),
        ([f"images/test_{n:06d}.png" for n in range(1000)], None),
        ([f"{n}.jpg" for n in range(999)], None),
    ],
)
def test_a_split_is_known_by_its_size_and_names(names, expected):
    assert published.suite(table(names)) == expected


def test_the_papers_figures_stand_beside_ours():
    ours = dict.fromkeys(RECALLS, 1.0) | {"i2t_r1": 81.0, "rsum": 520.0}
    rows = published.beside(ours, "flickr30k", "vit_b_32")
    assert list(rows) == [
        *(f"image → text, R@{k}" for k in (1, 5, 10)),
        *(f"text → image, R@{k}" for k in (1, 5, 10)),
        "RSUM",
    ]
    assert (
        rows["image → text, R@1"]["this run"],
        rows["image → text, R@1"]["CUSA"],
        rows["text → image, R@1"]["CUSA"],
    ) == (
        81.0,
        82.1,
        67.5,
    )
    assert (rows["RSUM"]["this run"], rows["RSUM"]["CUSA"]) == (520.0, 526.3)
    assert published.beside(ours, "coco5k", "vit_b_32")["RSUM"]["CUSA"] == 429.7
    assert published.beside(ours, None, "vit_b_32") == published.beside(ours, "coco5k", "toy") == {}

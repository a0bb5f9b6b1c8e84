"""Which of the paper's figures stand beside an evaluation's, and where they must not."""

import io

import numpy as np
import pytest
from PIL import Image

from cusa_jax.report.evaluation import sections, short_names

RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum", "i2t_mean_rank")
LOSSES = ["contrastive", "CSA", "USA", "CUSA"]


def model(name, *, architecture=None, **suites):
    """What `record.record` makes: suite=(units, metrics), each metric 10, 11, … with an interval of ±1."""
    parts = {}
    for suite, (units, metrics) in suites.items():
        values = {
            metric: {"value": n, "low": n - 1, "high": n + 1} for n, metric in enumerate(metrics, start=10)
        }
        parts[suite] = {
            "head": "uni",
            "unit": "image",
            "units": units,
            "notes": ["a note"],
            "metrics": values,
        }
    return {"model": name, "architecture": architecture, "suites": parts, "skipped": {}}


@pytest.mark.parametrize(
    ("architecture", "columns", "figures"),
    [
        ("vit_b_32", ["CLIP ViT-B/32"], [[56.3, 57.6, 56.3, 57.3]]),
        ("vit_l_14_336", ["CLIP ViT-L/14@336"], [[67.1, 67.7, 66.6, 67.9]]),
        (
            "rn50",
            ["CLIP ViT-B/32", "CLIP ViT-L/14@336"],
            [[56.3, 57.6, 56.3, 57.3], [67.1, 67.7, 66.6, 67.9]],
        ),
    ],
)
def test_the_papers_figures_are_those_of_the_same_model_or_of_all(architecture, columns, figures):
    (section,) = sections([model("run", architecture=architecture, coco5k=(5000, RECALLS))], {})
    assert section.paper == dict.fromkeys(columns, LOSSES)
    rows = {row.metric: row for row in section.rows}
    assert rows["i2t_r1"].label == "image → text, R@1"
    assert rows["i2t_r1"].values == [{"value": 10, "low": 9, "high": 11}]
    assert rows["i2t_r1"].paper == figures
    assert rows["i2t_mean_rank"].paper == [[None] * 4] * len(columns)
    assert section.data == ["uni; 5,000 images."]


def test_other_data_are_no_comparison():
    small, unpublished = sections([model("run", flickr30k=(24, RECALLS), coco1k=(5000, RECALLS))], {})
    assert not small.paper
    assert small.notes == [
        "not the paper's data, which are 1,000 images: its figures are no comparison", "a note"
    ]  # fmt: skip
    assert not unpublished.paper
    assert unpublished.notes == ["a note"]


def test_sts_shows_its_tasks_first():
    (section,) = sections([model("run", sts=(9, ("sts12", "sts12_MSRpar", "sts12_pearson", "avg")))], {})
    assert [row.label for row in section.rows] == ["STS 12", "average"]
    assert [row.label for row in section.more] == ["STS 12 MSRpar", "STS 12 pearson"]
    assert section.rows[1].paper[0][3] == 73.2


def test_two_models_stand_side_by_side_with_their_difference():
    first = model("runs/a", architecture="vit_b_32", cub=(5924, ("rank1", "r5")), sop=(9, ("rank1",)))
    second = model("runs/b", architecture="vit_b_32", cub=(5924, ("rank1",)))
    difference = {"value": 0.5, "low": 0.1, "high": 0.9, "verdict": "better"}
    cub, sop = sections([first, second], {"differences": {"cub": {"rank1": difference}}, "not_compared": {}})
    assert list(cub.paper) == ["CLIP ViT-B/32"]
    assert [(row.values[0] is None, row.values[1] is None, row.difference) for row in cub.rows] == [
        (False, False, difference), (False, True, None)
    ]  # fmt: skip
    assert [row.values[1] for row in sop.rows] == [None]
    assert cub.plot.title == "CUB-200-2011: b − a"
    assert "rank-1 difference 0.5 (0.1 to 0.9)" in cub.plot.description
    assert "R@5 difference" not in cub.plot.description


def test_the_plot_has_percentages_only_and_the_papers_cusa():
    (section,) = sections([model("run", architecture="vit_b_32", coco5k=(5000, RECALLS))], {})
    told = section.plot.description
    assert "image → text, R@1 run 10 (9 to 11); image → text, R@1 paper, CLIP ViT-B/32, CUSA 57.3" in told
    assert "RSUM" not in told
    assert "rank" not in told
    assert np.asarray(Image.open(io.BytesIO(section.plot.png))).std() > 10


def test_names_are_short_where_that_tells_them_apart():
    assert short_names([{"model": "runs/a"}, {"model": "runs/b/"}]) == ["a", "b"]
    assert short_names([{"model": "x/best"}, {"model": "y/best"}]) == ["x/best", "y/best"]

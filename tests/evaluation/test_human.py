"""Flickr8k's judgements against scipy's Kendall on the pairs written out."""

import json

import numpy as np
import pytest
from scipy.stats import kendalltau

from cusa_jax.errors import InputError
from cusa_jax.evaluation.human import CROWD, EXPERTS, HUMAN, read_judgements
from cusa_jax.evaluation.sources import ArraySource
from cusa_jax.evaluation.suite import Evaluation, Folders

IMAGES, PER_IMAGE = 6, 2


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [(i, j, k) for i in range(IMAGES) for j in range(IMAGES) for k in range(PER_IMAGE)]
    experts = [(f"{i}_x.jpg\t{j}_x.jpg#{k}", rng.integers(1, 5, 3)) for i, j, k in pairs]
    crowd = [(f"{i}_x.jpg\t{j}_x.jpg#{k}", np.round(rng.random(), 2), 2, 1) for i, j, k in pairs]
    lines = ["\t".join((name, *map(str, ratings))) for name, ratings in experts]
    # A pair whose image is not in the gallery.
    (tmp_path / EXPERTS).write_text("\n".join([*lines, "9_x.jpg\t0_x.jpg#0\t1\t1\t1"]) + "\n")
    (tmp_path / CROWD).write_text("\n".join("\t".join(map(str, line)) for line in crowd) + "\n")
    scores = rng.normal(size=(IMAGES, IMAGES * PER_IMAGE)).astype(np.float32)
    arrays = {
        "flickr8k/scores": scores,
        "flickr8k/caption_image": np.arange(IMAGES * PER_IMAGE) // PER_IMAGE,
        "flickr8k/image_ids": np.array([f"images/{n}_x.jpg" for n in range(IMAGES)]),
    }
    np.savez(tmp_path / "scores.npz", **arrays)
    return tmp_path


def run(folder):
    folders = Folders([HUMAN], "", {"flickr8k": str(folder)})
    return HUMAN.run(Evaluation(ArraySource(folder / "scores.npz"), folders))


def written_out(folder, file, columns, own):
    """(scores, ratings) of every pair and judge."""
    scores = np.load(folder / "scores.npz")["flickr8k/scores"]
    x, y = [], []
    for line in (folder / file).read_text().splitlines():
        image, caption, *values = line.split("\t")
        i, (j, k) = int(image[0]), (int(caption[0]), int(caption[-1]))
        if i < IMAGES and (own or i != j):
            for column in columns:
                x.append(scores[i, j * PER_IMAGE + k])
                y.append(float(values[column]))
    return x, y


def test_figures_are_kendalls_of_all_pairs(folder):
    values = run(folder).values()
    expert = kendalltau(*written_out(folder, EXPERTS, (0, 1, 2), own=False), variant="c").statistic
    crowd = kendalltau(*written_out(folder, CROWD, (0,), own=True), variant="b").statistic
    assert values == pytest.approx({"expert_tau_c": 100 * expert, "crowd_tau_b": 100 * crowd})


def test_an_image_drawn_twice_brings_its_pairs_twice(folder):
    result = run(folder)
    weights = np.ones((1, sum(result.strata)))
    weights[0, :IMAGES] = [2, 0, 1, 1, 0, 2]
    x, y = written_out(folder, EXPERTS, (0, 1, 2), own=False)
    rows = np.repeat(np.arange(IMAGES), len(x) // IMAGES)
    drawn = np.repeat(np.arange(len(x)), weights[0, rows].astype(int))
    expected = kendalltau(np.array(x)[drawn], np.array(y)[drawn], variant="c").statistic
    assert result.statistics["expert_tau_c"](weights)[0] == pytest.approx(100 * expected)


def test_what_is_absent_is_counted(folder):
    assert run(folder).notes == ("tau_c: 1 of 61 judged pairs are absent",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no judgements"),
        ("a.jpg\tb.jpg\t1\n", "line 1 is not an image, a caption FILE#NUMBER and judgements"),
        ("a.jpg\tb.jpg#0\t1\na.jpg\tb.jpg#1\t1\t2\n", r"line 2 is not .*another number of judgements"),
        ("a.jpg\tb.jpg#0\tnan\n", "line 1 is not"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, content, said):
    (tmp_path / EXPERTS).write_text(content)
    with pytest.raises(InputError, match=said):
        read_judgements(tmp_path / EXPERTS)


def test_images_without_names_cannot_be_judged(folder):
    arrays = dict(np.load(folder / "scores.npz"))
    del arrays["flickr8k/image_ids"]
    np.savez(folder / "scores.npz", **arrays)
    with pytest.raises(InputError, match="there are no image_ids"):
        run(folder)


def test_the_figures_have_names(folder):
    assert {metric.key for metric in HUMAN.metrics} == set(run(folder).values())
    assert json.dumps(run(folder).values())

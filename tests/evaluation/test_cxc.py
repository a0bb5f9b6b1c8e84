"""CxC's graded similarity against scipy on small files of its format."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from cusa_jax.errors import InputError
from cusa_jax.evaluation.bootstrap import differences, intervals
from cusa_jax.evaluation.cxc import DRAWS, Side, bootstrapped, graded_result, read_ratings
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.statistics import mean

ROWS = {
    "sts": ("caption1,caption2", ["COCO_val2014:sentid:11", "COCO_val2014:sentid:12"]),
    "sis": ("image1,image2", ["COCO_val2014_000000000101.jpg", "COCO_val2014_000000000102.jpg"]),
    "sits": ("caption,image", ["COCO_val2014:sentid:11", "COCO_val2014_000000000101.jpg"]),
}
CAPTIONS, IMAGES = np.array([13, 11, 12, 14]), np.array([103, 101, 102])
IDS = {"caption": CAPTIONS, "image": IMAGES}
RNG = np.random.default_rng(0)
FEATURES = {"caption": RNG.standard_normal((4, 6)), "image": RNG.standard_normal((3, 6))}


def name(kind, number):
    return f"COCO_val2014:sentid:{number}" if kind == "caption" else f"COCO_val2014_{number:012}.jpg"


@pytest.fixture
def folder(tmp_path):
    """All pairs, and one with an item that is not there."""
    for kind, (columns, _) in ROWS.items():
        sides = [column.rstrip("12") for column in columns.split(",")]
        pairs = [(a, b) for a in IDS[sides[0]] for b in IDS[sides[1]]] + [(99, IDS[sides[1]][0])]
        lines = [f"{name(sides[0], a)},{name(sides[1], b)},{(7 * a + 3 * b) % 5},x" for a, b in pairs]
        (tmp_path / f"{kind}_test.csv").write_text(
            "\n".join([f"{columns},agg_score,sampling_method", *lines]) + "\n"
        )
    return tmp_path


def graded(folder):
    ratings = {kind: read_ratings(folder, kind) for kind in ROWS}
    text, image = FEATURES["caption"], FEATURES["image"]
    captions, images = Side(CAPTIONS, text), Side(IMAGES, image)
    cross = Side(CAPTIONS, 2 * text), Side(IMAGES, -image)
    return graded_result(ratings, {"sts": (captions, captions), "sis": (images, images), "sits": cross})


def test_equals_scipy_on_the_pairs_that_are_there(folder):
    figures = graded(folder)
    heads = {"sts": (1, 1), "sis": (1, 1), "sits": (2, -1)}
    for (kind, (columns, _)), figure in zip(
        ROWS.items(), ("text_text", "image_image", "text_image"), strict=True
    ):
        sides = [column.rstrip("12") for column in columns.split(",")]
        a, b = np.meshgrid(IDS[sides[0]], IDS[sides[1]], indexing="ij")
        similarity = np.prod(heads[kind]) * FEATURES[sides[0]] @ FEATURES[sides[1]].T
        expected = 100 * spearmanr(similarity.ravel(), ((7 * a + 3 * b) % 5).ravel()).statistic
        assert figures.values()[f"all_pairs_{figure}"] == pytest.approx(expected, rel=1e-12)
    assert figures.strata == (16, 9, 12)
    assert figures.notes[0] == "text_text: 1 of 17 rated pairs are absent"


def test_bad_files_are_named(folder):
    (folder / "sis_test.csv").unlink()
    with pytest.raises(InputError, match=r"sis_test.csv: cannot be read"):
        graded(folder)
    for content in (
        "image1,image2\na,b\n",
        f"image1,image2,agg_score\n1{'0' * 30},2,1\n",
        "image1,image2,agg_score\nx,y,1\n",
        "image1,image2,agg_score\n",
    ):
        (folder / "sis_test.csv").write_text(content)
        with pytest.raises(InputError, match=r"sis_test.csv: (not a table|holds no ratings)"):
            graded(folder)


def test_strangers_are_refused(folder):
    ratings = {"sis": read_ratings(folder, "sis")}
    images = Side(IMAGES + 1000, FEATURES["image"])
    with pytest.raises(InputError, match="none of the rated image_image pairs"):
        graded_result(ratings, {"sis": (images, images)})


def test_the_papers_statistic_draws_half_of_the_queries_with_one_partner_each():
    """Against the definition written out with scipy, over every draw that there is."""
    rng = np.random.default_rng(1)
    query = np.repeat([7, 3, 9, 5], [1, 4, 2, 3])
    similarity, rating = rng.standard_normal(len(query)), rng.standard_normal(len(query))
    partners = [np.flatnonzero(query == item) for item in np.unique(query)]
    possible = [
        100 * spearmanr(similarity[[a, b]], rating[[a, b]]).statistic
        for some, others in itertools.combinations(partners, 2)
        for a, b in itertools.product(some, others)
    ]
    # Each pair of queries is as likely as any other, and so is each partner of a query.
    likelihood = [
        1 / (6 * len(some) * len(others))
        for some, others in itertools.combinations(partners, 2)
        for _ in range(len(some) * len(others))
    ]
    draws = bootstrapped(similarity, rating, query)
    assert draws.shape == (DRAWS,)
    assert set(draws.round(9)) == set(np.round(possible, 9))
    error = np.sqrt(np.dot(likelihood, np.square(possible)) - np.dot(likelihood, possible) ** 2) / np.sqrt(
        DRAWS
    )
    assert draws.mean() == pytest.approx(np.dot(likelihood, possible), abs=3 * error)


def test_it_differs_from_all_pairs_and_has_the_interval_of_its_draws(folder):
    result = graded(folder)
    value, draws = result.values()["text_text"], result.drawn["text_text"]
    # Few pairs: in some draws all ratings are equal, and there is no correlation.
    draws = draws[np.isfinite(draws)]
    assert 0 < len(draws) < DRAWS
    assert value == draws.mean()
    interval = intervals(result)["text_text"]
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))))
    assert f"whose standard deviation is {draws.std():.2f}" in result.notes[1]
    assert value != result.values()["all_pairs_text_text"]


def test_two_models_are_compared_draw_by_draw():
    rng = np.random.default_rng(2)
    query, rating = np.repeat(np.arange(400), 3), rng.standard_normal(1200)
    close, far = (rating + noise * rng.standard_normal(1200) for noise in (0.5, 1.0))
    unrated = Result("pair", (3,), {"r1": mean(np.ones(3))})
    first, second = (
        dataclasses.replace(unrated, drawn={"s": bootstrapped(similarity, rating, query)})
        for similarity in (far, close)
    )
    paired = differences(first, second)["s"]
    by_draw = second.drawn["s"] - first.drawn["s"]
    assert paired.value == pytest.approx(by_draw.mean())
    assert (paired.low, paired.high) == pytest.approx(tuple(np.quantile(by_draw, (0.025, 0.975))))
    assert paired.verdict == "better"

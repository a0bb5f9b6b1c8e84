"""Recall against the PyTorch reference's `itm_eval` (goldens) and a brute-force ranking."""

import json
from pathlib import Path

import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.evaluation.recall import Scores, fold_figures, ranks_both_ways, recall, recall_figures

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = json.loads((GOLDENS / "itm_eval.json").read_text())


def golden_scores(case: str) -> np.ndarray:
    return np.load(GOLDENS / "itm_eval.npz")[case]


@pytest.mark.parametrize("case", ["random_20x100", "informative_40x200", "perfect"])
def test_equals_the_reference_on_scores_without_ties(case):
    result = recall(golden_scores(case), CASES[case]["caption_image"])
    assert result.pop("rsum") == pytest.approx(
        sum(result[f"{way}_r{k}"] for way in ("txt", "img") for k in (1, 5, 10))
    )
    assert {name: round(value, 2) for name, value in result.items()} == CASES[case]["result"]


@pytest.mark.parametrize("case", ["ties_few", "ties_quantised_8_levels", "ties_all_equal"])
def test_lies_within_what_the_reference_could_say_of_ties(case):
    result = recall(golden_scores(case), CASES[case]["caption_image"])
    for way, bounds in CASES[case]["tie_bounds"].items():
        for n, k in enumerate((1, 5, 10)):
            low, high = bounds["pessimistic_r1_5_10"][n], bounds["optimistic_r1_5_10"][n]
            assert low <= round(result[f"{way}_r{k}"], 2) <= high


@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "few ties"])
def test_ranks_equal_a_stable_sort(levels):
    rng = np.random.default_rng(0)
    n_images = 300  # more than one block
    caption_image = rng.permutation(np.r_[np.arange(n_images), rng.integers(0, n_images, 400)])
    scores = rng.integers(0, levels, (n_images, len(caption_image))).astype(np.float32)

    txt_rank, img_rank = (ranking.rank for ranking in ranks_both_ways(scores, caption_image))

    for image, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda caption, row=row: (-row[caption], caption))
        assert txt_rank[image] == min(order.index(c) for c in np.flatnonzero(caption_image == image))
    for caption, column in enumerate(scores.T):
        order = sorted(range(n_images), key=lambda image, column=column: (-column[image], image))
        assert img_rank[caption] == order.index(caption_image[caption])


def test_equal_scores_rank_by_number():
    txt_rank, img_rank = (ranking.rank for ranking in ranks_both_ways(np.zeros((3, 3)), [2, 0, 1]))
    assert txt_rank.tolist() == [1, 2, 0]
    assert img_rank.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("scores", "caption_image", "message"),
    [
        (np.zeros((2, 3)), [0, 1], r"scores \(2, 3\) and caption_image \(2,\) do not fit"),
        (np.zeros(3), [0, 1, 0], "do not fit"),
        (np.zeros((2, 2)), [0, 0], "each of the 2 images at least once"),
        (np.zeros((2, 2)), [1, 2], "no other"),
        (np.array([[0, np.nan], [0, 0]]), [0, 1], "NaN"),
        (np.array([[0, 0], [np.inf, 0]]), [0, 1], "infinity"),
    ],
)
def test_refuses_what_has_no_recall(scores, caption_image, message):
    with pytest.raises(InputError, match=message):
        recall(scores, caption_image)

"""Recall against the PyTorch reference's `itm_eval` (goldens) and a brute-force ranking."""

import json
from pathlib import Path

import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.evaluation import ranking
from cusa_jax.evaluation.metrics import current
from cusa_jax.evaluation.recall import fold_result, ranks_both_ways, recall, recall_result
from cusa_jax.evaluation.scores import InnerProducts

GOLDENS = Path(__file__).parents[1] / "goldens"
# The reference names what is found.
OURS = {"txt": "i2t", "img": "t2i"}
CASES = json.loads((GOLDENS / "itm_eval.json").read_text())


def golden_scores(case: str) -> np.ndarray:
    return np.load(GOLDENS / "itm_eval.npz")[case]


@pytest.mark.parametrize("case", ["random_20x100", "informative_40x200", "perfect"])
def test_equals_the_reference_on_scores_without_ties(case):
    result = recall(golden_scores(case), CASES[case]["caption_image"])
    assert result.pop("rsum") == pytest.approx(
        sum(result[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10))
    )
    assert {name: round(value, 2) for name, value in result.items()} == current(CASES[case]["result"])


@pytest.mark.parametrize("case", ["ties_few", "ties_quantised_8_levels", "ties_all_equal"])
def test_lies_within_what_the_reference_could_say_of_ties(case):
    result = recall(golden_scores(case), CASES[case]["caption_image"])
    for way, bounds in CASES[case]["tie_bounds"].items():
        for n, k in enumerate((1, 5, 10)):
            low, high = bounds["pessimistic_r1_5_10"][n], bounds["optimistic_r1_5_10"][n]
            assert low <= round(result[f"{OURS[way]}_r{k}"], 2) <= high


@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "few ties"])
def test_ranks_equal_a_stable_sort(levels):
    rng = np.random.default_rng(0)
    n_images = 300  # more than one block
    caption_image = rng.permutation(np.r_[np.arange(n_images), rng.integers(0, n_images, 400)])
    scores = rng.integers(0, levels, (n_images, len(caption_image))).astype(np.float32)

    i2t_rank, t2i_rank = (ranking.rank for ranking in ranks_both_ways(scores, caption_image).values())

    for image, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda caption, row=row: (-row[caption], caption))
        assert i2t_rank[image] == min(order.index(c) for c in np.flatnonzero(caption_image == image))
    for caption, column in enumerate(scores.T):
        order = sorted(range(n_images), key=lambda image, column=column: (-column[image], image))
        assert t2i_rank[caption] == order.index(caption_image[caption])


def test_equal_scores_rank_by_number():
    i2t_rank, t2i_rank = (ranking.rank for ranking in ranks_both_ways(np.zeros((3, 3)), [2, 0, 1]).values())
    assert i2t_rank.tolist() == [1, 2, 0]
    assert t2i_rank.tolist() == [2, 0, 1]


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


@pytest.mark.parametrize("case", ["random_20x100", "informative_40x200", "ties_few"])
def test_figures_are_the_same_numbers(case):
    scores, caption_image = golden_scores(case), np.array(CASES[case]["caption_image"])
    figures = recall_result(scores, caption_image).values()
    expected = recall(scores, caption_image)
    for key in ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"):
        assert figures[key] == pytest.approx(expected[key])
    assert figures["rsum"] == pytest.approx(expected["rsum"])
    assert figures["r_mean"] == pytest.approx(expected["r_mean"])
    for way, ranked in ranks_both_ways(scores, caption_image).items():
        assert figures[f"{way}_mean_rank"] == pytest.approx(ranked.rank.mean() + 1)
        assert figures[f"{way}_median_rank"] == np.median(ranked.rank) + 1


@pytest.mark.parametrize("case", ["ties_few", "ties_quantised_8_levels", "ties_all_equal"])
def test_bounds_of_ties_are_the_references_best_and_worst(case):
    scores, caption_image = golden_scores(case), np.array(CASES[case]["caption_image"])
    notes = recall_result(scores, caption_image).notes
    for way, ranked in zip(("txt", "img"), ranks_both_ways(scores, caption_image).values(), strict=True):
        bounds = CASES[case]["tie_bounds"][way]
        for n, k in enumerate((1, 5, 10)):
            assert round(100 * np.mean(ranked.worst < k), 2) == bounds["pessimistic_r1_5_10"][n]
            assert round(100 * np.mean(ranked.best < k), 2) == bounds["optimistic_r1_5_10"][n]
        low, high = bounds["pessimistic_r1_5_10"][0], bounds["optimistic_r1_5_10"][0]
        assert f"R@1 {low:.2f}–{high:.2f}" in " ".join(notes)


def test_without_ties_there_is_no_note():
    case = CASES["random_20x100"]
    assert recall_result(golden_scores("random_20x100"), np.array(case["caption_image"])).notes == ()


def embedded(n_images=50, captions=3, width=8):
    rng = np.random.default_rng(2)
    image = rng.standard_normal((n_images, width))
    caption_image = np.repeat(np.arange(n_images), captions)
    return image, image[caption_image] + rng.standard_normal((n_images * captions, width)), caption_image


def test_embeddings_rank_as_their_cosines_in_any_number_of_blocks(monkeypatch):
    image, text, caption_image = embedded()
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    expected = recall(unit[0] @ unit[1].T, caption_image)
    assert recall(InnerProducts.cosines(image, text), caption_image) == pytest.approx(expected)
    monkeypatch.setattr(ranking, "BLOCK_SCORES", 150)
    assert recall(InnerProducts.cosines(image, text), caption_image) == pytest.approx(expected)


def test_folds_average_separate_galleries():
    image, text, caption_image = embedded()
    shuffled = np.random.default_rng(3).permutation(len(text))  # captions in any order, images in theirs
    figures = fold_result(InnerProducts.cosines(image, text[shuffled]), caption_image[shuffled], fold=10)
    folds = [
        recall_result(
            InnerProducts.cosines(image[n : n + 10], text[3 * n : 3 * n + 30]), caption_image[:30]
        ).values()
        for n in range(0, 50, 10)
    ]
    assert figures.values() == pytest.approx(
        {name: np.mean([fold[name] for fold in folds]) for name in folds[0]}
    )
    with pytest.raises(InputError, match="50 images do not split into folds of 20"):
        fold_result(InnerProducts.cosines(image, text), caption_image, fold=20)


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "differ in width"),
        (np.ones((2, 3)), np.array([[1.0, 0, 0], [0, 0, 0]]), "row 1 of the text embeddings is all zeros"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "image embeddings hold NaN"),
    ],
)
def test_refuses_broken_embeddings(image, text, message):
    with pytest.raises(InputError, match=message):
        InnerProducts.cosines(image, text)

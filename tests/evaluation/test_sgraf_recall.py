"""Recall as the authors of SGRAF print it: one matrix, the mean of two models' matrices, five folds."""

import golden
import numpy as np
import pytest

from cusa_jax.evaluation.recall import fold_result, ranks_both_ways, recall, recall_result
from cusa_jax.evaluation.scores import Matrix

RECORDED = golden.numbers("sgraf/eval")
ROWS = [f"{way}_{key}" for way in ("i2t", "t2i") for key in ("r1", "r5", "r10", "median_rank", "mean_rank")]


def scores(name, model):
    """Uniform, and more for the captions of an image."""
    if model == "ensemble":
        return (scores(name, "a") + scores(name, "b")) / 2
    images, bonus = RECORDED[name]["n_images"], RECORDED[name]["bonus"]
    tag = f"sgraf/eval/{name}/{model}"
    values = golden.hash_uniform(tag, (images, 5 * images), 0, 1)
    own = golden.hash_uniform(f"{tag}/bonus", (images, 5), 0, bonus)
    values.reshape(images, images, 5)[np.arange(images), np.arange(images)] += own
    return values


def caption_image(images):
    return np.arange(5 * images) // 5


@pytest.mark.parametrize("model", ["a", "b", "ensemble"])
@pytest.mark.parametrize("name", ["m40", "m7", "m25b"])
def test_ranks_and_recalls_are_the_originals(name, model):
    recorded, arrays, images = RECORDED[name][model], golden.arrays("sgraf/eval"), RECORDED[name]["n_images"]
    values = scores(name, model)
    for way, ranking in ranks_both_ways(values, caption_image(images)).items():
        np.testing.assert_array_equal(ranking.rank, arrays[f"{name}/{model}/{way}_ranks"])
    result = recall_result(values, caption_image(images)).values()
    ours = [result[key] for key in ROWS]
    # Theirs is the floor of a median between two ranks.
    theirs = [*recorded["i2t"], *recorded["t2i"]]
    for key, value, expected in zip(ROWS, ours, theirs, strict=True):
        assert (
            np.floor(value) == expected if "median" in key else value == pytest.approx(expected, abs=1e-9)
        ), key
    assert recall(values, caption_image(images))["rsum"] == pytest.approx(recorded["rsum"], abs=1e-9)


@pytest.mark.parametrize("model", ["a", "b", "ensemble"])
def test_five_folds_are_the_originals(model):
    images = RECORDED["m40"]["n_images"]
    result = fold_result(Matrix(scores("m40", model)), caption_image(images), fold=images // 5).values()
    row = RECORDED["m40"][model]["five_fold_mean"]
    for key, column in (
        ("i2t_r1", 0),
        ("i2t_r5", 1),
        ("i2t_r10", 2),
        ("t2i_r1", 5),
        ("t2i_r5", 6),
        ("t2i_r10", 7),
    ):
        assert result[key] == pytest.approx(row[column], abs=1e-9)
    assert result["rsum"] == pytest.approx(row[12], abs=1e-9)

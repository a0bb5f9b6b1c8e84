"""Inner products, a matrix and blocks: whoever ranks, counts and looks up gets the same from all three."""

import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.evaluation import ranking, scores
from cusa_jax.evaluation.ranking import Positives
from cusa_jax.evaluation.recall import fold_result, recall, recall_result
from cusa_jax.evaluation.relevance import relevance_metrics
from cusa_jax.evaluation.scores import Blocks, InnerProducts, Matrix

IMAGES, CAPTIONS, TILE = 20, 60, (8, 16)
GROUP = np.random.default_rng(0).permutation(np.repeat(np.arange(IMAGES), CAPTIONS // IMAGES))
# Inner products of small whole numbers are exact and often equal: ties must fall alike too.
IMAGE = np.random.default_rng(1).integers(-2, 3, (IMAGES, 4)).astype(np.float32)
TEXT = IMAGE[GROUP] + np.random.default_rng(2).integers(-1, 2, (CAPTIONS, 4)).astype(np.float32)
WHOLE = IMAGE @ TEXT.T


class Model:
    """Sees both sides, and remembers the largest block that it was asked for."""

    def __init__(self):
        self.largest = (0, 0)

    def __call__(self, images, captions):
        self.largest = tuple(np.maximum(self.largest, (len(images), len(captions))).tolist())
        return WHOLE[np.ix_(images, captions)]


def kinds():
    return {
        "inner products": InnerProducts(IMAGE, TEXT),
        "matrix": Matrix(WHOLE),
        "blocks": Blocks(WHOLE.shape, Model(), TILE),
    }


@pytest.fixture(params=kinds())
def some(request):
    return kinds()[request.param]


def test_every_kind_gives_the_same_numbers(some, monkeypatch):
    relevant = np.random.default_rng(3).random((CAPTIONS, IMAGES)) < 0.2
    expected = recall(WHOLE, GROUP), relevance_metrics(WHOLE, relevant)
    assert (recall(some, GROUP), relevance_metrics(some, relevant)) == expected
    # Several blocks of queries.
    monkeypatch.setattr(ranking, "BLOCK_SCORES", 200)
    assert (recall(some, GROUP), relevance_metrics(some, relevant)) == expected


def test_every_kind_has_the_same_intervals_and_folds(some):
    ones = np.random.default_rng(4).integers(0, 3, (5, IMAGES)).astype(float)
    for result, expected in (
        (recall_result(some, GROUP), recall_result(WHOLE, GROUP)),
        (fold_result(some, GROUP, fold=5), fold_result(Matrix(WHOLE), GROUP, fold=5)),
    ):
        assert result.notes == expected.notes
        for key, statistic in expected.statistics.items():
            np.testing.assert_array_equal(result.statistics[key](ones), statistic(ones))


@pytest.mark.parametrize("way", ["i2t", "t2i"])
def test_every_kind_looks_up_the_same(some, way, monkeypatch):
    whole = WHOLE if way == "i2t" else WHOLE.T
    np.testing.assert_array_equal(some.rows(way, np.array([3, 1])), whole[[3, 1]])
    monkeypatch.setattr(scores, "BLOCK_SCORES", 200)
    values, items = some.top(way, 5)
    order = np.argsort(-whole, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(items, order)
    np.testing.assert_array_equal(values, np.take_along_axis(whole, order, 1))


def test_a_part_is_ranked_by_itself(some):
    rng = np.random.default_rng(5)
    images, captions = rng.permutation(IMAGES)[:7], rng.permutation(CAPTIONS)[:11]
    part, expected = some.take(images, captions), Matrix(WHOLE[np.ix_(images, captions)])
    assert part.shape == expected.shape == (7, 11)
    positives = Positives.of_matrix(rng.random((7, 11)) < 0.3)
    ours, theirs = (s.rank("i2t", positives, depth=4) for s in (part, expected))
    np.testing.assert_array_equal(ours.rank, theirs.rank)
    np.testing.assert_array_equal(ours.hits, theirs.hits)


def test_blocks_are_never_whole_unless_asked_for():
    model = Model()
    blocks = Blocks(WHOLE.shape, model, TILE)
    recall(blocks, GROUP)
    blocks.top("t2i", 3)
    assert model.largest == TILE
    np.testing.assert_array_equal(blocks.matrix().values, WHOLE)


def test_a_broken_model_is_refused():
    blocks = Blocks((2, 2), lambda m, n: np.full((len(m), len(n)), np.nan))
    with pytest.raises(InputError, match="scores hold NaN"):
        recall(blocks, [0, 1])
    with pytest.raises(InputError, match="should be numbers"):
        Matrix(np.full((2, 2), "a"))
    with pytest.raises(InputError, match="should be numbers"):
        InnerProducts.cosines(np.ones((2, 2), complex), np.ones((2, 2)))

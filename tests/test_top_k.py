"""Exact search against a sort of all scores."""

import numpy as np
import pytest

from cusa_jax.top_k import top_k


@pytest.mark.parametrize("tile", [1, 7, 40, 100])
@pytest.mark.parametrize("k", [1, 5, 60])
def test_the_best_are_those_of_a_full_sort_whatever_the_tiles(tile, k):
    rng = np.random.default_rng(0)
    # small integers: float32 products are exact, and many scores are equal
    queries, items = rng.integers(-2, 3, (6, 8)), rng.integers(-2, 3, (41, 8))
    scores, numbers = top_k(queries, items, k, tile=tile)
    expected = np.argsort(-(queries @ items.T), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(queries @ items.T, expected, axis=1))
    assert scores.shape == (6, min(k, 41))


def test_many_queries_go_in_blocks():
    rng = np.random.default_rng(1)
    queries, items = rng.standard_normal((50, 4)), rng.standard_normal((9, 4))
    np.testing.assert_array_equal(top_k(queries, items, 3, block=8)[1], top_k(queries, items, 3)[1])

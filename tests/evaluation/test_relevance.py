"""mAP@R, R-Precision and R@1 against their definitions, query by query."""

import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.evaluation.relevance import relevance_metrics


def by_definition(scores: np.ndarray, relevant: np.ndarray) -> list[float]:
    """mAP@R, R-Precision and R@1 in percent of queries that look for items, [Q, N] each."""
    values = []
    for row, positives in zip(scores.tolist(), map(np.flatnonzero, relevant), strict=True):
        if len(positives) == 0:
            continue
        ranked = sorted(range(len(row)), key=lambda item, row=row: (-row[item], item))
        hits = [item in positives for item in ranked[: len(positives)]]
        precision_at_hits = [sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits) if hit]
        values.append([sum(precision_at_hits) / len(positives), np.mean(hits), hits[0]])
    return (100 * np.mean(values, axis=0)).tolist()


@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "few ties"])
def test_equals_the_definition_both_ways(levels):
    rng = np.random.default_rng(1)
    relevant = rng.random((1100, 30)) < 0.08  # more captions than one block; some have no positive
    relevant[:, 7] = False
    scores = rng.integers(0, levels, (30, 1100)) + levels * 0.3 * relevant.T
    result = relevance_metrics(scores, relevant)
    names = ("map_at_r", "rprecision", "exact_r1")
    assert [result[f"i2t_{name}"] for name in names] == pytest.approx(by_definition(scores, relevant.T))
    assert [result[f"t2i_{name}"] for name in names] == pytest.approx(by_definition(scores.T, relevant))
    assert result["map_at_r"] == pytest.approx((result["i2t_map_at_r"] + result["t2i_map_at_r"]) / 2)
    assert result["i2t_queries_left_out"] == 1
    assert result["t2i_queries_left_out"] == (~relevant.any(1)).sum() > 0


def test_worked_example():
    """Captions ranked 0, 1, 2, 3, of which 0, 2 and 3 are relevant: R = 3, hits at ranks 1 and 3."""
    scores = np.array([[4.0, 3.0, 2.0, 1.0]])
    relevant = np.array([[True], [False], [True], [True]])
    result = relevance_metrics(scores, relevant)
    assert result["i2t_map_at_r"] == pytest.approx(100 * (1 / 1 + 2 / 3) / 3)
    assert result["i2t_rprecision"] == pytest.approx(100 * 2 / 3)
    assert result["i2t_exact_r1"] == 100
    assert result["t2i_map_at_r"] == 100
    assert result["t2i_queries_left_out"] == 1


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        (np.zeros((2, 3)), np.ones((2, 3), bool), r"scores \(2, 3\) and relevant \(2, 3\) do not fit"),
        (np.full((2, 3), np.nan), np.ones((3, 2), bool), "NaN"),
        (np.zeros((2, 3)), np.zeros((3, 2), bool), "no caption is relevant"),
    ],
)
def test_refuses_what_has_no_metric(scores, relevant, message):
    with pytest.raises(InputError, match=message):
        relevance_metrics(scores, relevant)

"""Rank-1 against the reference's `get_metric` (goldens); R@K and mAP@R against brute force."""

import golden
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.evaluation.image_retrieval import leave_one_out, query_gallery

CASES = golden.numbers("evaluation")["get_metric"]


def features(case, side="query"):
    return golden.arrays("evaluation")[f"metric/{case}/{side}"]


@pytest.mark.parametrize("case", ["query_only_300", "query_only_128_exact_chunk"])
def test_leave_one_out_equals_the_reference(case):
    figures = leave_one_out(features(case), CASES[case]["query_label"])
    assert figures.values()["rank1"] == pytest.approx(CASES[case]["rank1"], rel=1e-12)
    assert figures.notes == ()


def test_query_and_gallery_equal_the_reference():
    case = CASES["query_gallery"]
    figures = query_gallery(
        features("query_gallery"),
        case["query_label"],
        features("query_gallery", "gallery"),
        case["gallery_label"],
    )
    assert figures.values()["rank1"] == pytest.approx(case["rank1"], rel=1e-12)


def test_duplicates_find_others_and_the_references_number_is_told():
    case = CASES["query_only_exact_duplicates"]
    x, labels = features("query_only_exact_duplicates"), np.array(case["query_label"])
    figures = leave_one_out(x, labels)
    unit = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float64)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    assert figures.values()["rank1"] == pytest.approx(100 * np.mean(labels[scores.argmax(1)] == labels))
    assert f"rank-1 is {case['rank1']:.2f} where a query may find itself" in figures.notes[-1]


def by_definition(scores, positive):
    """rank-1, R@5, mAP@R and R-Precision in percent; queries without a positive are wrong, and left out of the rest."""
    recalls, rest = [], []
    for row, right in zip(scores, positive, strict=True):
        order = [n for n in sorted(range(len(row)), key=lambda n, row=row: -row[n]) if np.isfinite(row[n])]
        hits = [bool(right[n]) for n in order]
        recalls.append([any(hits[:1]), any(hits[:5])])
        if total := sum(right):
            precision = [np.mean(hits[: r + 1]) for r in range(total)]
            rest.append([np.dot(precision, hits[:total]) / total, np.mean(hits[:total])])
    return [*(100 * np.mean(recalls, 0)), *(100 * np.mean(rest, 0))]


def test_all_figures_by_definition():
    rng = np.random.default_rng(0)
    labels = np.r_[rng.integers(0, 6, 40), 77]  # the last is alone in its class
    x = rng.standard_normal((6, 5))[labels % 6] + rng.standard_normal((41, 5))
    scores = x @ x.T / np.linalg.norm(x, axis=1) / np.linalg.norm(x, axis=1)[:, None]
    positive = labels == labels[:, None]
    names = ("rank1", "r5", "map_at_r", "rprecision")

    apart = query_gallery(x[:20], labels[:20], x[20:], labels[20:]).values()
    assert [apart[n] for n in names] == pytest.approx(by_definition(scores[:20, 20:], positive[:20, 20:]))

    np.fill_diagonal(scores, -np.inf)
    np.fill_diagonal(positive, False)
    together = leave_one_out(x, labels)
    assert [together.values()[n] for n in names] == pytest.approx(by_definition(scores, positive))
    assert together.notes == (
        "1 queries have no image of their class to find: wrong at rank-1, left out of mAP@R",
    )


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (np.ones((3, 2)), [0, 1], r"features \(3, 2\) and labels \(2,\)"),
        (np.eye(3), [0, 1, 2], "no query has a right answer"),
        (np.zeros((2, 2)), [0, 0], "all zeros"),
    ],
)
def test_refuses_what_has_no_figure(x, labels, message):
    with pytest.raises(InputError, match=message):
        leave_one_out(x, labels)

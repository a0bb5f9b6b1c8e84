"""Statistics under resampling weights against numpy and scipy on the resample written out; bootstrap intervals."""

import numpy as np
import pytest
from scipy import stats

from cusa_jax.errors import InputError
from cusa_jax.evaluation import bootstrap
from cusa_jax.evaluation.result import Result, side_by_side
from cusa_jax.evaluation.statistics import (
    average,
    kendall,
    mean,
    median,
    pearson,
    percent,
    spearman,
    total,
    within,
)

RNG = np.random.default_rng(0)
N = 40
WEIGHTS = RNG.integers(0, 4, (5, N)).astype(float)
UNITS = np.arange(N)
X, Y = RNG.integers(0, 9, N), RNG.integers(0, 9, N) + 0.5  # many ties


def resamples(*arrays):
    """The arrays with every unit as often as each row of WEIGHTS says."""
    return [tuple(np.repeat(array, row.astype(int)) for array in arrays) for row in WEIGHTS]


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        (percent(X), [100 * x.mean() for x, _ in resamples(X, Y)]),
        (median(X, np.arange(N)), [np.median(x) for x, _ in resamples(X, Y)]),
        (spearman(X, Y), [100 * stats.spearmanr(*pair).statistic for pair in resamples(X, Y)]),
        (pearson(X, Y), [100 * stats.pearsonr(*pair).statistic for pair in resamples(X, Y)]),
        (kendall(X, Y, UNITS, "b"), [100 * stats.kendalltau(*pair).statistic for pair in resamples(X, Y)]),
        (
            kendall(X, Y, UNITS, "c"),
            [100 * stats.kendalltau(*pair, variant="c").statistic for pair in resamples(X, Y)],
        ),
        (
            average([mean(X), mean(Y)], np.array([1, 3])),
            [(x.mean() + 3 * y.mean()) / 4 for x, y in resamples(X, Y)],
        ),
        (total([mean(X), mean(Y)]), [x.mean() + y.mean() for x, y in resamples(X, Y)]),
    ],
    ids=["mean", "median", "spearman", "pearson", "kendall_b", "kendall_c", "average", "total"],
)
def test_weights_are_repetitions(statistic, expected):
    np.testing.assert_allclose(statistic(WEIGHTS), expected, rtol=1e-12)


def test_values_that_share_a_unit_are_drawn_together():
    unit = np.repeat(np.arange(4), 10)
    weights = np.array([[2.0, 0, 1, 3]])
    drawn, drawn_y = (np.repeat(values, weights[0].astype(int)[unit]) for values in (X, Y))
    assert mean(X, unit, units=4)(weights) == pytest.approx([drawn.mean()])
    assert median(X, unit)(weights) == pytest.approx([np.median(drawn)])
    # Members of a unit need not be in a row.
    order = RNG.permutation(N)
    for variant in ("b", "c"):
        expected = 100 * stats.kendalltau(drawn, drawn_y, variant=variant).statistic
        assert kendall(X[order], Y[order], unit[order], variant)(weights) == pytest.approx([expected])


def test_interval_covers_what_theory_says():
    values = RNG.random(2000) < 0.3
    found = bootstrap.intervals(Result("image", (2000,), {"r1": percent(values)}))["r1"]
    error = 100 * values.std() / np.sqrt(2000)
    assert found.value == pytest.approx(100 * values.mean())
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.25 * error)


@pytest.mark.parametrize("hits", [0, 1])
def test_a_share_that_is_the_same_in_every_unit_has_the_exact_interval(hits):
    """Clopper and Pearson's, by scipy; the bootstrap's has no width."""
    n, unit = 12, np.repeat(np.arange(12), 5)
    at_1 = percent(np.full(60, hits), unit, units=n)
    found = bootstrap.intervals(
        Result(
            "image",
            (n,),
            {"r1": at_1, "sum": total([at_1, at_1]), "part": within(percent(np.full(4, hits)), slice(4))},
        )
    )
    for key, units, most in (("r1", n, 100), ("sum", n, 200), ("part", 4, 100)):
        exact = stats.binomtest(hits * units, units).proportion_ci(0.95, "exact")
        expected = (most * hits, most * exact.low, most * exact.high)
        assert (found[key].value, found[key].low, found[key].high) == pytest.approx(expected)


def test_what_is_no_share_has_the_interval_of_the_bootstrap_alone():
    ranks = Result("image", (N,), {"rank": mean(np.ones(N)), "both": total([mean(np.ones(N)), percent(X)])})
    assert bootstrap.intervals(ranks)["rank"] == bootstrap.Interval(1, 1, 1)


def test_a_difference_that_is_the_same_in_every_unit_has_the_exact_interval():
    """4 of 4 images better is no proof: the sign test gives it p = 0.125."""
    for n, verdict in ((4, "no difference shown"), (40, "better")):
        first, second = (Result("image", (n,), {"r1": percent(np.full(n, hit))}) for hit in (0, 1))
        found = bootstrap.differences(first, second)["r1"]
        low = 100 * (2 * stats.binomtest(n, n).proportion_ci(0.95, "exact").low - 1)
        assert (found.value, found.low, found.high) == pytest.approx((100, low, 100))
        assert found.verdict == verdict


def test_strata_are_resampled_by_themselves():
    """Within a stratum nothing varies here, so the figure cannot."""
    found = bootstrap.intervals(Result("pair", (30, 70), {"m": mean(np.repeat([0.0, 1.0], [30, 70]))}))["m"]
    assert (found.low, found.high) == (0.7, 0.7)


def test_the_order_of_memory_does_not_change_the_numbers(monkeypatch):
    results = Result("image", (N,), {"m": mean(X)})
    whole = bootstrap.intervals(results)
    monkeypatch.setattr(bootstrap, "_CHUNK", 100 * N)
    assert bootstrap.intervals(results) == whole


def pair_of(first, second, name="r1"):
    return tuple(Result("image", (len(first),), {name: mean(values)}) for values in (first, second))


def test_pairing_sees_what_separate_intervals_do_not():
    values = RNG.random(500)
    first, second = pair_of(values, values + 0.01 + 0.001 * RNG.standard_normal(500))
    alone = [bootstrap.intervals(results)["r1"] for results in (first, second)]
    paired = bootstrap.differences(first, second)["r1"]
    assert alone[0].high > alone[1].low
    assert paired.value == pytest.approx(0.01, abs=0.001)
    assert paired.verdict == "better"
    assert bootstrap.differences(second, first)["r1"].verdict == "worse"


def test_better_only_where_the_interval_excludes_zero():
    values = RNG.random(50)
    first, second = pair_of(values, RNG.permutation(values) + 1e-3)
    found = bootstrap.differences(first, second)["r1"]
    assert found.low < 0 < found.high
    assert found.verdict == "no difference shown"
    assert bootstrap.differences(first, first)["r1"].verdict == "no difference shown"


def test_a_lower_rank_is_better():
    first, second = pair_of(np.full(20, 5.0), np.full(20, 3.0), "i2t_mean_rank")
    assert bootstrap.differences(first, second)["i2t_mean_rank"].verdict == "better"


def test_only_the_same_units_can_be_paired():
    first, _ = pair_of(np.ones(5), np.ones(5))
    _, second = pair_of(np.ones(6), np.ones(6))
    with pytest.raises(InputError, match=r"different images \(5 and 6\)"):
        bootstrap.differences(first, second)


def test_a_figure_that_no_resample_has_is_nan_and_not_a_number():
    found = bootstrap.intervals(Result("pair", (1,), {"s": spearman(np.ones(1), np.ones(1))}))["s"]
    assert all(np.isnan([found.value, found.low, found.high]))


def test_parts_keep_their_units():
    parts = {
        "a": Result("image", (N,), {"m": mean(X)}),
        "": Result("image", (N,), {"m": mean(Y)}, notes=("n",)),
    }
    whole = side_by_side("image", parts)
    assert whole.strata == (N, N)
    assert whole.values() == pytest.approx({"a_m": X.mean(), "m": Y.mean()})
    assert whole.notes == ("n",)

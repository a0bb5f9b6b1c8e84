"""Statistics under resampling weights against numpy and scipy on the resample written out; bootstrap intervals."""

import numpy as np
import pytest
from scipy import stats

from cusa_jax.errors import InputError
from cusa_jax.evaluation import bootstrap
from cusa_jax.evaluation.result import Result, side_by_side
from cusa_jax.evaluation.statistics import average, mean, median, pearson, spearman, total

RNG = np.random.default_rng(0)
N = 40
WEIGHTS = RNG.integers(0, 4, (5, N)).astype(float)
X, Y = RNG.integers(0, 9, N), RNG.integers(0, 9, N) + 0.5  # many ties


def resamples(*arrays):
    """The arrays with every unit as often as each row of WEIGHTS says."""
    return [tuple(np.repeat(array, row.astype(int)) for array in arrays) for row in WEIGHTS]


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        (mean(X, scale=100), [100 * x.mean() for x, _ in resamples(X, Y)]),
        (median(X, np.arange(N)), [np.median(x) for x, _ in resamples(X, Y)]),
        (spearman(X, Y), [100 * stats.spearmanr(*pair).statistic for pair in resamples(X, Y)]),
        (pearson(X, Y), [100 * stats.pearsonr(*pair).statistic for pair in resamples(X, Y)]),
        (
            average([mean(X), mean(Y)], np.array([1, 3])),
            [(x.mean() + 3 * y.mean()) / 4 for x, y in resamples(X, Y)],
        ),
        (total([mean(X), mean(Y)]), [x.mean() + y.mean() for x, y in resamples(X, Y)]),
    ],
    ids=["mean", "median", "spearman", "pearson", "average", "total"],
)
def test_weights_are_repetitions(statistic, expected):
    np.testing.assert_allclose(statistic(WEIGHTS), expected, rtol=1e-12)


def test_values_that_share_a_unit_are_drawn_together():
    unit = np.repeat(np.arange(4), 10)
    weights = np.array([[2.0, 0, 1, 3]])
    drawn = np.repeat(X, weights[0].astype(int)[unit])
    assert mean(X, unit, units=4)(weights) == pytest.approx([drawn.mean()])
    assert median(X, unit)(weights) == pytest.approx([np.median(drawn)])


def test_interval_covers_what_theory_says():
    values = RNG.random(2000) < 0.3
    found = bootstrap.intervals(Result("image", (2000,), {"r1": mean(values, scale=100)}))["r1"]
    error = 100 * values.std() / np.sqrt(2000)
    assert found.value == pytest.approx(100 * values.mean())
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.25 * error)


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

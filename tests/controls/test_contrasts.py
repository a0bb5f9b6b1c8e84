"""Differences of cells: intervals, p-values and planned seeds are what they say, by scipy and by simulation."""

import re

import numpy as np
import pytest
from scipy import stats

from cusa_jax.controls import table
from cusa_jax.controls.cells import BASELINE, Cell
from cusa_jax.controls.contrasts import Measured, contrasts, holm, seeds_needed
from cusa_jax.controls.figures import measure
from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.sources import ImageFiles
from cusa_jax.data.splits import Split
from cusa_jax.evaluation.human import Judged, Judgements, crowd_result, expert_result
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.retrieval import ScoredSplit, metrics
from cusa_jax.evaluation.scores import InnerProducts
from cusa_jax.evaluation.sources import Captioned
from cusa_jax.evaluation.statistics import mean

CUSA = Cell("cusa", "trained")


def measured(values):
    """A cell whose runs, a row each, have these values of images."""
    return Measured(
        [Result("image", (len(run),), {"r_mean": mean(run)}) for run in np.asarray(values, float)]
    )


def test_intervals_are_paired_by_seed_and_by_image():
    rng = np.random.default_rng(3)
    # Both shared by the two cells.
    images, seeds = rng.normal(50, 20, 400), rng.normal(0, 5, (3, 1))
    first = images + seeds + rng.normal(0, 1, (3, 400))
    second = images + seeds + np.array([[1.0], [1.5], [2.0]]) + rng.normal(0, 1, (3, 400))
    [found] = contrasts({BASELINE: measured(first), CUSA: measured(second)})
    by_seed = (second - first).mean(1)
    expected = stats.ttest_rel(second.mean(1), first.mean(1))
    assert str(found) == "cusa-trained − baseline"
    assert found.mean == pytest.approx(by_seed.mean())
    assert found.by_seed == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p == pytest.approx(expected.pvalue)
    normal = stats.norm.interval(0.95, by_seed.mean(), stats.sem((second - first).mean(0)))
    assert found.by_image == pytest.approx(normal, abs=0.02)


def test_recipes_are_compared_with_their_own_baseline_or_the_plain_one_and_the_plain_cell():
    cells = [BASELINE, CUSA, Cell("cusa", "shuffled")]
    cells += [
        Cell("cusa", "trained", "sharp"),
        Cell("cusa", "trained", "b"),
        Cell(recipe="b"),
        Cell(recipe="frozen"),
    ]
    found = {str(contrast) for contrast in contrasts({cell: measured([[1, 2], [2, 3]]) for cell in cells})}
    assert found == {
        "cusa-trained − baseline",
        "cusa-shuffled − baseline",
        "sharp.cusa-trained − baseline",
        "b.cusa-trained − b.baseline",
        "cusa-trained − cusa-shuffled",
        "sharp.cusa-trained − cusa-trained",
        "frozen.baseline − baseline",
    }


def test_holms_correction():
    # By hand: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.5 x 1, none below the one before; NaN is no test.
    assert holm([0.02, 0.5, np.nan, 0.01, 0.03]) == pytest.approx(
        [0.06, 0.5, np.nan, 0.04, 0.06], nan_ok=True
    )
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])


def test_the_planned_seeds_find_the_difference_four_times_in_five():
    seen = np.array([0.2, 1.0, 1.8, -0.4, 1.4])
    seeds = seeds_needed(seen)
    rng = np.random.default_rng(0)

    def found(count):
        drawn = rng.normal(seen.mean(), seen.std(ddof=1), (20_000, count))
        return (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()

    assert found(seeds) >= 0.79
    assert found(seeds - 1) < 0.81
    assert seeds_needed(np.array([1.0, -1.0, 1e-3])) is None


def test_the_table():
    first, second = [[10, 20, 60], [11, 21, 61]], [[12, 22, 62], [13, 23, 63.3]]
    told = table.text({BASELINE: measured(first), CUSA: measured(second)}, "test")
    assert re.search(r"^test, %, 2 seeds +r_mean$", told, re.M)
    assert re.search(r"^baseline +30\.50 ± 0\.71$", told, re.M)
    assert re.search(r"^cusa-trained − baseline +\+2\.05 +\+1\.41 … \+2\.69 ", told, re.M)
    assert "shuffled" not in told


def test_its_figures_are_the_official_ones():
    rng = np.random.default_rng(4)
    # Not equally many each.
    caption_image = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 5], np.int32)
    relevance = np.eye(6, dtype=bool)[caption_image] | (rng.random((10, 6)) < 0.3)
    table = CaptionTable([f"p{n}" for n in range(6)], [], ["c"] * 10, caption_image, None)
    split = Split(table, ["c"] * 10, np.zeros((10, 4), np.int32), relevance, ImageFiles([]))
    scores = InnerProducts(rng.normal(size=(6, 3)), rng.normal(size=(10, 3)))
    scored = ScoredSplit(np.arange(6, dtype=np.int32), np.arange(10), scores)
    pairs = [(f"p{i}", (f"p{j}", 0)) for i in range(6) for j in range(6)]
    judgements = Judgements(*map(list, zip(*pairs, strict=True)), rng.integers(1, 5, (36, 3)).astype(float))
    found = measure(scored, split, Judged(judgements, judgements)).values()
    official = metrics(scored, split)
    captioned = Captioned(scores, caption_image, split.table.image_ids, None, None, None, "", "")
    official["expert_tau_c"] = expert_result(captioned, judgements).values()["tau_c"]
    official["crowd_tau_b"] = crowd_result(captioned, judgements).values()["tau_b"]
    assert list(found) == ["expert_tau_c", "crowd_tau_b", "map_at_r", "r_mean"]
    for name, value in found.items():
        assert value == pytest.approx(official[name])
    assert list(measure(scored, split).values()) == ["map_at_r", "r_mean"]


def test_the_sentence_says_what_the_intervals_say():
    """One seed differs in every image alike, the other not at all: images would show it, seeds need not."""
    first = np.random.default_rng(0).normal(50, 20, (2, 400))
    text = table.text({BASELINE: measured(first), CUSA: measured(first + np.array([[2.0], [0.0]]))}, "test")
    said = text.splitlines()[-1]
    assert said.startswith(
        "In short: cusa-trained − baseline is +1.00 r_mean; other seeds need not show it too (-11.71"
    )
    assert said.endswith("other images would show it too (+1.00 … +1.00).")

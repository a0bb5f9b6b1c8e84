"""One name for each metric, and the names that runs were logged under before."""

import numpy as np
import pytest

from cusa_jax.evaluation.metrics import METRICS, Metric, current, described
from cusa_jax.evaluation.recall import recall, recall_result
from cusa_jax.evaluation.relevance import relevance_metrics


def test_all_that_is_computed_is_in_the_list():
    scores, group = np.eye(3), np.arange(3)
    computed = recall(scores, group) | relevance_metrics(scores, np.eye(3) > 0)
    computed |= recall_result(scores, group).values()
    keys = [metric.key for metric in METRICS]
    assert len(set(keys)) == len(keys)
    assert computed.keys() == set(keys) - {"images_skipped"}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("txt_r1", "i2t_r1"),
        ("img_r_mean", "t2i_r_mean"),
        ("txt_r_precision", "i2t_rprecision"),
        ("img_exact_r1", "t2i_exact_r1"),
        ("r_mean", "r_mean"),
        ("loss_usa", "loss_usa"),
        ("i2t_r1", "i2t_r1"),
    ],
)
def test_old_keys_are_read_as_todays(before, now):
    assert current({before: 1.5}) == {now: 1.5}


def test_parts_of_a_metric_are_described_by_it():
    own = (Metric("tau_c", "Kendall τ_c"), Metric("sts12", "STS 12"))
    assert described("tau_c", own) is own[0]
    assert described("sts12_MSRpar", own).label == "STS 12 MSRpar"
    assert described("i2t_mean_rank").lower_is_better
    assert described("i2t_r5").title == "image → text, R@5"
    assert described("nothing_known").title == "nothing known"

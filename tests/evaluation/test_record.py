"""What an evaluation of two models leaves where one suite cannot be compared."""

import numpy as np
import pytest

from cusa_jax.evaluation.record import Evaluated, comparison, comparison_table
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.statistics import percent


def of(values):
    return Result("image", (len(values),), {"r1": percent(np.array(values, float))})


def test_other_images_are_not_compared_and_hide_no_other_suite():
    first = Evaluated("a", {"cub": of([0, 1, 0]), "sop": of([0, 0] * 40), "inat": of([1, 0])}, {})
    second = Evaluated("b", {"cub": of([0, 1]), "sop": of([1, 1] * 40)}, {})
    compared = comparison(first, second)
    assert compared["differences"] == {
        "sop": {"r1": {"value": 100, "low": pytest.approx(90.99, abs=0.01), "high": 100, "verdict": "better"}}
    }
    why = "the two have different images (3 and 2): a paired comparison needs the same ones"
    assert compared["not_compared"] == {"cub": why}
    assert comparison_table(("a", "b"), compared).splitlines()[-1] == f"cub: not compared: {why}"

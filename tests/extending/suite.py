"""A suite of one's own: does an image prefer its first caption to the one of its neighbour in the file?"""

import numpy as np

from cusa_jax.evaluation.metrics import Metric
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.statistics import percent
from cusa_jax.evaluation.suite import Dataset, Evaluation, Suite
from cusa_jax.evaluation.suites import SUITES

DATA = Dataset("neighbours", ("neighbours",), "it holds any layout of captions")


def run(evaluation: Evaluation) -> Result:
    """Units are images, so that the interval is over them."""
    captioned = evaluation.captioned(DATA)
    images, _ = captioned.scores.shape
    scores = captioned.scores.rows("i2t", np.arange(images))
    first = np.array([np.flatnonzero(captioned.caption_image == image)[0] for image in range(images)])
    own, neighbours = scores[np.arange(images), first], scores[np.arange(images), np.roll(first, 1)]
    preferred = percent(own > neighbours)
    return Result("image", (images,), {"preferred": preferred}, head=captioned.cross_head)


SUITES["neighbours"] = Suite(
    "neighbours",
    "Own caption or the neighbour's",
    (DATA,),
    run,
    metrics=(Metric("preferred", "own caption first"),),
)

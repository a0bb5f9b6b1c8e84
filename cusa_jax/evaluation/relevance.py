"""Retrieval with several right answers: mAP@R, R-Precision and R@1 on a many-to-many relevance matrix.

The metrics of Musgrave et al. (ECCV 2020) as ECCV Caption (Chun et al., ECCV 2022) applies them to image
and caption queries. Items with equal scores rank by their number, lower first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cusa_jax.errors import InputError
from cusa_jax.evaluation.ranking import Positives, Ranking
from cusa_jax.evaluation.scores import Scores, as_scores


def relevance_metrics(scores: ArrayLike | Scores, relevant: ArrayLike) -> dict[str, float]:
    """Retrieval both ways against all relevant items, in percent.

    scores: float [n_images, n_captions], finite; or scores of any kind.
    relevant: bool [n_captions, n_images], is the caption true of the image?

    Returns, with prefix `i2t_` for images that look for captions and `t2i_` for captions that look for
    images: `map_at_r`, `rprecision`, `exact_r1` (is the first item relevant?), the means over the queries
    that have a relevant item, and `queries_left_out`, how many have none. `map_at_r` is the mean of both.
    Raises InputError where shapes do not fit, a score is not finite or nothing is relevant.
    """
    scores = as_scores(scores)
    relevant = np.asarray(relevant, bool)
    if relevant.shape != scores.shape[::-1]:
        raise InputError(
            f"scores {scores.shape} and relevant {relevant.shape} do not fit: "
            "they should be [n_images, n_captions] and [n_captions, n_images]"
        )
    if not relevant.any():
        raise InputError("no caption is relevant to any image: there is nothing to retrieve")
    captions, images = Positives.of_matrix(relevant.T), Positives.of_matrix(relevant)
    rankings = {
        "i2t": scores.rank("i2t", captions, depth=captions.most),
        "t2i": scores.rank("t2i", images, depth=images.most),
    }
    result: dict[str, float] = {}
    for (way, ranking), queries in zip(rankings.items(), scores.shape, strict=True):
        values = per_query(ranking)
        result |= {f"{way}_{name}": 100 * float(value.mean()) for name, value in values.items()}
        result[f"{way}_queries_left_out"] = queries - len(ranking.queries)
    result["map_at_r"] = (result["i2t_map_at_r"] + result["t2i_map_at_r"]) / 2
    return result


def per_query(ranking: Ranking, relevant: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """`map_at_r`, `rprecision` and `exact_r1` of each answerable query, float64 [A], from its hits.

    relevant: int [A], R, if some relevant items of a query are not among those ranked. The hits must be that deep.

    With R relevant items and hit_r = [item at rank r is relevant], mAP@R = 1/R Σ_{r≤R} hit_r · precision@r.
    """
    place = np.arange(1, ranking.hits.shape[1] + 1)
    total = ranking.positives if relevant is None else relevant
    hit = ranking.hits & (place <= total[:, None])
    precision = hit.cumsum(1) / place
    return {
        "map_at_r": (hit * precision).sum(1) / total,
        "rprecision": hit.sum(1) / total,
        "exact_r1": hit[:, 0].astype(float),
    }

"""Retrieval with several right answers: mAP@R, R-Precision and R@1 on a many-to-many relevance matrix.

The metrics of Musgrave et al. (ECCV 2020) as ECCV Caption (Chun et al., ECCV 2022) applies them to image
and caption queries. Items with equal scores rank by their number, lower first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cusa_jax.errors import InputError

_BLOCK = 1024  # queries ranked at a time, which bounds the memory


def relevance_metrics(scores: ArrayLike, relevant: ArrayLike) -> dict[str, float]:
    """Retrieval both ways against all relevant items, in percent.

    scores: float [n_images, n_captions], finite.
    relevant: bool [n_captions, n_images], is the caption true of the image?

    Returns, with prefix `txt_` for images that look for captions and `img_` for captions that look for
    images: `map_at_r`, `r_precision`, `exact_r1` (is the first item relevant?), the means over the queries
    that have a relevant item, and `queries_left_out`, how many have none. `map_at_r` is the mean of both.
    Raises InputError where shapes do not fit, a score is not finite or nothing is relevant.
    """
    scores, relevant = np.asarray(scores), np.asarray(relevant, bool)
    if scores.ndim != 2 or relevant.shape != scores.T.shape:
        raise InputError(
            f"scores {scores.shape} and relevant {relevant.shape} do not fit: "
            "they should be [n_images, n_captions] and [n_captions, n_images]"
        )
    if not np.isfinite(scores).all():
        raise InputError("scores hold NaN or infinity: the embeddings they come from are broken")
    if not relevant.any():
        raise InputError("no caption is relevant to any image: there is nothing to retrieve")
    directions = {"txt": (scores, relevant.T), "img": (scores.T, relevant)}
    result = {
        f"{prefix}_{name}": value
        for prefix, arguments in directions.items()
        for name, value in _one_way(*arguments).items()
    }
    result["map_at_r"] = (result["txt_map_at_r"] + result["img_map_at_r"]) / 2
    return result


def _one_way(scores: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """The metrics of queries [Q] that look for items [N]: scores and relevant are [Q, N]."""
    answerable = relevant.any(1)
    scores, relevant = scores[answerable], relevant[answerable]
    blocks = [
        _per_query(scores[start : start + _BLOCK], relevant[start : start + _BLOCK])
        for start in range(0, len(scores), _BLOCK)
    ]
    means = 100 * np.concatenate(blocks, axis=1).mean(1)
    return {
        **dict(zip(("map_at_r", "r_precision", "exact_r1"), means.tolist(), strict=True)),
        "queries_left_out": int((~answerable).sum()),
    }


def _per_query(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """mAP@R, R-Precision and R@1 of each query: [3, Q].

    With R relevant items and hit_r = [item at rank r is relevant], mAP@R = 1/R Σ_{r≤R} hit_r · precision@r.
    """
    total = relevant.sum(1)
    depth = total.max()
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    rank = np.arange(1, depth + 1)
    hit = np.take_along_axis(relevant, order, axis=1) & (rank <= total[:, None])
    precision = hit.cumsum(1) / rank
    return np.stack([(hit * precision).sum(1) / total, hit.sum(1) / total, hit[:, 0]])

"""Recall@K on annotated image-caption pairs, the protocol of Flickr30K and COCO retrieval.

Same numbers as `itm_eval` of the CUSA reference (evaluation.py:58-118) on scores without ties, where its
order is that of an unstable sort. Here items with equal scores rank by their number, lower first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cusa_jax.errors import InputError

_KS = (1, 5, 10)
_BLOCK = 256  # images ranked at a time, which bounds the memory


def recall(scores: ArrayLike, caption_image: ArrayLike) -> dict[str, float]:
    """Recall@1, 5, 10 both ways, in percent.

    scores: float [n_images, n_captions], finite.
    caption_image: int [n_captions], the image of each caption; an image may have any number of captions.

    Returns `txt_r1`, `txt_r5`, `txt_r10` (an image finds one of its captions), `img_r1`, `img_r5`,
    `img_r10` (a caption finds its image), the means `txt_r_mean`, `img_r_mean` and `r_mean`, and `rsum`,
    the sum of the six recalls.
    Raises InputError where shapes do not fit, a score is not finite or an image has no caption.
    """
    txt_rank, img_rank = ranks(scores, caption_image)
    result: dict[str, float] = {}
    for prefix, rank in (("txt", txt_rank), ("img", img_rank)):
        at_k = {f"{prefix}_r{k}": 100.0 * float(np.mean(rank < k)) for k in _KS}
        result |= at_k | {f"{prefix}_r_mean": sum(at_k.values()) / len(_KS)}
    result["r_mean"] = (result["txt_r_mean"] + result["img_r_mean"]) / 2
    result["rsum"] = 2 * len(_KS) * result["r_mean"]
    return result


def ranks(scores: ArrayLike, caption_image: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """How many items are ranked before the right one, 0 being best; arguments and errors as `recall`.

    Returns int [n_images], the rank of the image's best caption among all captions, and
    int [n_captions], the rank of the caption's image among all images.
    """
    scores, caption_image = _checked(np.asarray(scores), np.asarray(caption_image))
    n_images, n_captions = scores.shape
    caption = np.arange(n_captions)
    annotated = scores[caption_image, caption]

    by_score = np.lexsort((caption, -annotated, caption_image))  # grouped by image, best caption first
    best_caption = by_score[np.unique(caption_image[by_score], return_index=True)[1]]

    txt_rank = np.empty(n_images, int)
    img_rank = np.zeros(n_captions, int)
    for start in range(0, n_images, _BLOCK):
        block = scores[start : start + _BLOCK]
        image = np.arange(start, start + len(block))[:, None]
        best = best_caption[start : start + _BLOCK][:, None]
        txt_rank[start : start + _BLOCK] = _before(block, annotated[best], caption < best).sum(1)
        img_rank += _before(block, annotated, image < caption_image).sum(0)
    return txt_rank, img_rank


def _before(scores: np.ndarray, right: np.ndarray, lower_number: np.ndarray) -> np.ndarray:
    return (scores > right) | ((scores == right) & lower_number)


def _checked(scores: np.ndarray, caption_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if scores.ndim != 2 or caption_image.shape != scores.shape[1:]:
        raise InputError(
            f"scores {scores.shape} and caption_image {caption_image.shape} do not fit: "
            "they should be [n_images, n_captions] and [n_captions]"
        )
    if not np.array_equal(np.unique(caption_image), np.arange(len(scores))):
        raise InputError(
            f"caption_image should name each of the {len(scores)} images at least once and no other"
        )
    if not np.isfinite(scores).all():
        raise InputError("scores hold NaN or infinity: the embeddings they come from are broken")
    return scores, caption_image

"""One collection of captions divided into splits by image: `data.split='90/5/5'`.

All captions of an image fall into one split, so that no training image is evaluated on. The division depends on the
images' ids and a seed alone: not on the run's seed, nor on where the files lie, nor on the order of the rows.
"""

from __future__ import annotations

import re

import numpy as np

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.errors import InputError


def part(table: CaptionTable, split: str, shares: str) -> tuple[CaptionTable, np.ndarray, np.ndarray]:
    """(the part of a table that is `split`, the numbers of its images, those of its captions).

    shares: percentages of train, val and test, '90/5/5', or with another seed than 0 '90/5/5@7'.
    Raises InputError for shares that are none, and where a split would have no image.
    """
    percents, seed = _parse(shares)
    count = len(table.image_ids)
    bounds = [round(count * sum(percents[:n]) / 100) for n in range(4)]
    if min(np.diff(bounds)) < 1:
        raise InputError(
            f"config.data.split={shares} leaves a split without images: there are {count}; change the shares"
        )
    place = ("train", "val", "test").index(split)
    return _of_images(table, np.sort(_drawn(table, seed)[bounds[place] : bounds[place + 1]]))


def fewer(table: CaptionTable, split: str, images: int) -> tuple[CaptionTable, np.ndarray, np.ndarray]:
    """As `part`: so many of the images with their captions; those of a smaller number are among those of a larger.

    Raises InputError where there are not so many.
    """
    if images > len(table.image_ids):
        raise InputError(f"config.data.{split}_images={images}: there are {len(table.image_ids)}; take fewer")
    return _of_images(table, np.sort(_drawn(table, seed=0)[:images]))


def _drawn(table: CaptionTable, seed: int) -> np.ndarray:
    """The numbers of all images in a random order that depends on their ids, not on that of the rows."""
    by_id = np.argsort(np.array(table.image_ids, object), kind="stable")
    return by_id[np.random.default_rng(seed).permutation(len(by_id))]


def _of_images(table: CaptionTable, images: np.ndarray) -> tuple[CaptionTable, np.ndarray, np.ndarray]:
    new_number = np.full(len(table.image_ids), -1, np.int32)
    new_number[images] = np.arange(len(images))
    captions = np.flatnonzero(new_number[table.caption_image] >= 0)
    chosen = CaptionTable(
        image_ids=[table.image_ids[n] for n in images],
        image_paths=[table.image_paths[n] for n in images],
        captions=[table.captions[n] for n in captions],
        caption_image=new_number[table.caption_image[captions]],
        caption_ids=None if table.caption_ids is None else table.caption_ids[captions],
    )
    return chosen, images, captions


def _parse(shares: str) -> tuple[list[int], int]:
    found = re.fullmatch(r"(\d{1,3})/(\d{1,3})/(\d{1,3})(?:@(\d{1,9}))?", shares)
    if not found or sum(percents := [int(found[n]) for n in (1, 2, 3)]) != 100:
        raise InputError(
            f"config.data.split='{shares}': percentages of train, val and test that add up to 100, '90/5/5'"
        )
    return percents, int(found[4] or 0)

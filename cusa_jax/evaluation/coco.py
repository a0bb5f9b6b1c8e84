"""COCO's Karpathy test split: which images and captions it is made of, and which somebody has of it.

Ids and ground truth come from the `eccv-caption` package.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.errors import InputError
from cusa_jax.evaluation.suite import Dataset

# Of the largest id; COCO's file names fill up with zeros to twelve.
_DIGITS = 18


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The COCO test split. image_ids: int64 [5000] in Karpathy's order; caption_ids: int64 [25000], five an image."""

    image_ids: np.ndarray
    caption_ids: np.ndarray

    def positives(self, kind: str, way: str) -> dict[int, list[int]]:
        """query id -> ids of its right answers. kind: 'eccv', 'cxc' or 'original'; way: 'i2t' or 't2i'."""
        name = {"i2t": "image_to_caption", "t2i": "caption_to_image"}[way]
        return _read(f"{kind}_{name}.json")

    def pairs(self, kind: str, way: str) -> tuple[np.ndarray, np.ndarray]:
        """`positives` as arrays: the query and the item of every right answer, int64 ids."""
        return _pairs(kind, way)


@functools.cache
def _pairs(kind: str, way: str) -> tuple[np.ndarray, np.ndarray]:
    truth = ground_truth().positives(kind, way)
    queries = np.repeat(np.fromiter(truth, np.int64, len(truth)), list(map(len, truth.values())))
    return queries, np.array([item for items in truth.values() for item in items], np.int64)


@functools.cache
def ground_truth() -> GroundTruth:
    """The test split as the `eccv-caption` package has it."""
    caption_ids = np.load(_folder() / "coco_test_ids.npy", allow_pickle=False)
    image_of = _read("original_caption_to_image.json")
    image_ids = list(dict.fromkeys(image_of[caption][0] for caption in caption_ids.tolist()))
    return GroundTruth(np.array(image_ids), caption_ids)


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The part of the COCO test split that somebody has.

    images, captions: where its images and captions are in the user's arrays, in Karpathy's order.
    image_ids, caption_ids: their COCO ids.
    """

    images: np.ndarray
    captions: np.ndarray
    image_ids: np.ndarray
    caption_ids: np.ndarray

    @property
    def complete(self) -> bool:
        """Whether nothing of the test split is absent."""
        truth = ground_truth()
        return len(self.images) == len(truth.image_ids) and len(self.captions) == len(truth.caption_ids)

    @property
    def notes(self) -> tuple[str, ...]:
        truth = ground_truth()
        if self.complete:
            return ()
        return (
            f"partial gallery: {len(self.images)} of {len(truth.image_ids)} images and {len(self.captions)} of "
            f"{len(truth.caption_ids)} captions, so the numbers are not comparable with published ones",
        )


def gallery(image_ids: Sequence[str | int], caption_ids: np.ndarray | None) -> Gallery:
    """Finds the COCO test split among images and captions.

    image_ids: COCO ids, or file names that end in one (COCO_val2014_000000391895.jpg).
    caption_ids: int [N], COCO annotation ids (Karpathy's `sentid`).
    Raises InputError where captions have no ids, or none belongs to the test split.
    """
    if caption_ids is None:
        raise InputError(
            "the captions have no caption_id (COCO annotation ids, Karpathy's sentid), which names them"
        )
    truth = ground_truth()
    images, image_ids_here = _located(np.array([coco_id(name) for name in image_ids]), truth.image_ids)
    captions, caption_ids_here = _located(np.asarray(caption_ids, np.int64), truth.caption_ids)
    if not len(images) or not len(captions):
        raise InputError(
            "none of the images and captions is of COCO's Karpathy test split, which ECCV Caption and CxC annotate"
        )
    return Gallery(images, captions, image_ids_here, caption_ids_here)


def karpathy_test(table: CaptionTable) -> CaptionTable:
    """Karpathy's 5,000 test images where they are among others, as in COCO's validation file; else the table."""
    if table.caption_ids is None:
        return table
    truth = ground_truth()
    images = np.unique(table.caption_image[np.isin(table.caption_ids, truth.caption_ids)])
    complete, among_others = len(images) == len(truth.image_ids), len(images) < len(table.image_ids)
    if not (complete and among_others):
        return table
    captions = np.flatnonzero(np.isin(table.caption_image, images))
    return dataclasses.replace(
        table,
        image_ids=[table.image_ids[n] for n in images],
        image_paths=[table.image_paths[n] for n in images],
        captions=[table.captions[n] for n in captions],
        caption_image=np.searchsorted(images, table.caption_image[captions]).astype(np.int32),
        caption_ids=table.caption_ids[captions],
    )


def known_true(
    image_ids: Sequence[str | int], caption_ids: np.ndarray, caption_image: np.ndarray
) -> np.ndarray:
    """bool [N, M], whether ECCV Caption found caption n true of image m.

    False says nothing: only what five models proposed was judged.
    image_ids: M, as `gallery` takes them. caption_image: int [N], the image of each caption, among M.
    caption_ids: int [N]. Those of other datasets (Flickr30K's `sentid`) look like COCO's annotation ids: a caption
    is COCO's only if its image is the one that COCO has it on.
    """
    truth = ground_truth()
    numbers = [coco_id(name) for name in image_ids]
    image = {number: m for m, number in enumerate(numbers)}
    official = truth.positives("original", "t2i")
    caption = {
        identity: n
        for n, (identity, m) in enumerate(zip(caption_ids.tolist(), caption_image.tolist(), strict=True))
        if numbers[m] in official.get(identity, ())
    }
    pairs = {(c, i) for c, images in truth.positives("eccv", "t2i").items() for i in images}
    pairs |= {(c, i) for i, captions in truth.positives("eccv", "i2t").items() for c in captions}
    known = np.zeros((len(caption_ids), len(image_ids)), bool)
    for c, i in pairs:
        if c in caption and i in image:
            known[caption[c], image[i]] = True
    return known


def coco_id(name: str | int) -> int:
    """The number that ends an image's id or file name; -1 without one, or where it is too long for an id."""
    digits = re.search(r"([0-9]+)(\.\w+)?$", str(name))
    return int(digits[1]) if digits and len(digits[1]) <= _DIGITS else -1


def places(have: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int [len(wanted)], where each wanted id is among others, the first of several; -1 where it is not there."""
    order = np.argsort(have, kind="stable")
    place = np.minimum(np.searchsorted(have, wanted, sorter=order), len(have) - 1)
    return np.where(have[order[place]] == wanted, order[place], -1)


def _located(have: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `have` of those of `wanted` that are there, in the order of `wanted`; and their ids."""
    position = {identity: n for n, identity in reversed(list(enumerate(have.tolist())))}
    kept = [identity for identity in wanted.tolist() if identity in position]
    return np.array([position[identity] for identity in kept], int), np.array(kept, int)


@functools.cache
def _read(name: str) -> dict[int, list[int]]:
    return {int(key): value for key, value in json.loads((_folder() / name).read_text()).items()}


def _folder() -> Path:
    """The package's data. It is not imported: that warns unless ujson is installed."""
    spec = importlib.util.find_spec("eccv_caption")
    if spec is None or spec.origin is None:
        raise InputError("the package 'eccv-caption' is needed: pip install 'cusa_jax[evaluation]'")
    return Path(spec.origin).parent / "data"


COCO = Dataset(
    "coco",
    ("coco",),
    "it holds Karpathy's dataset_coco.json or COCO's captions_val2014.json, and the images of val2014/",
    select=karpathy_test,
)

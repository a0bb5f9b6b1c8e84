"""COCO captions with their other right answers: ECCV Caption and CxC retrieval, from the score matrix.

ECCV Caption (Chun et al., ECCV 2022): mAP@R, R-Precision and R@1 on positives that people and machines verified.
CxC (Parekh et al., EACL 2021): R@1, 5, 10 with additional positives. Ground truth and test captions (the first
five of each of Karpathy's 5,000 test images) come from the `eccv-caption` package, whose `Metrics` gives the same
numbers from ranked lists. A gallery that holds only some of the images is evaluated on what is there: R counts the
positives present, and queries with none are left out and counted.
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

from cusa_jax.data.captions import CaptionTable
from cusa_jax.errors import InputError
from cusa_jax.evaluation.figures import Figures, Statistic, average, mean
from cusa_jax.evaluation.ranking import Positives, Ranking
from cusa_jax.evaluation.recall import KS, Scores
from cusa_jax.evaluation.relevance import per_query

_DEEPEST = 50  # no query has more positives: at most 48 captions, or 19 images


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The COCO test split. image_ids: int64 [5000] in Karpathy's order; caption_ids: int64 [25000], five an image."""

    image_ids: np.ndarray
    caption_ids: np.ndarray

    def positives(self, kind: str, way: str) -> dict[int, list[int]]:
        """query id -> ids of its right answers. kind: 'eccv', 'cxc' or 'original'; way: 'i2t' or 't2i'."""
        name = {"i2t": "image_to_caption", "t2i": "caption_to_image"}[way]
        return _read(f"{kind}_{name}.json")


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
    """The number that ends an image's id or file name; -1 without one."""
    digits = re.search(r"(\d+)(\.\w+)?$", str(name))
    return int(digits[1]) if digits else -1


def eccv_figures(scores: Scores, found: Gallery, *, label: str = "") -> Figures:
    """`i2t_map_at_r`, `i2t_rprecision`, `i2t_r1`, the same for t2i, and `map_at_r`, the mean of both; in percent.

    scores: of all the user's images and captions; `found` says which of them count. Units are images.
    """
    rankings, left_out = _rankings(scores, found, "eccv", depth=_DEEPEST, label=label)
    unit = _image_of_query(found)
    unseen = _never_shown("eccv", found)
    names = {"map_at_r": "map_at_r", "rprecision": "r_precision", "r1": "exact_r1"}
    statistics: dict[str, Statistic] = {}
    for way, ranking in rankings.items():
        values = per_query(ranking, ranking.positives + unseen[way][ranking.queries])
        for name, key in names.items():
            statistics[f"{way}_{name}"] = mean(
                values[key], unit[way][ranking.queries], units=len(found.images), scale=100
            )
    statistics["map_at_r"] = average([statistics[f"{way}_map_at_r"] for way in rankings])
    return Figures("image", (len(found.images),), statistics, notes=(*found.notes, *left_out))


def recall_figures(scores: Scores, found: Gallery, kind: str = "cxc", *, label: str = "") -> Figures:
    """`i2t_r1` … `t2i_r10` with the positives of 'cxc', or of 'original' COCO; arguments as `eccv_figures`."""
    rankings, left_out = _rankings(scores, found, kind, label=label)
    unit = _image_of_query(found)
    statistics = {
        f"{way}_r{k}": mean(ranking.rank < k, unit[way][ranking.queries], units=len(found.images), scale=100)
        for way, ranking in rankings.items()
        for k in KS
    }
    return Figures("image", (len(found.images),), statistics, notes=(*found.notes, *left_out))


def _rankings(
    scores: Scores, found: Gallery, kind: str, *, depth: int = 0, label: str = ""
) -> tuple[dict[str, Ranking], tuple[str, ...]]:
    """The rankings both ways, and what to say of queries whose positives are all absent."""
    part = scores.take(found.images, found.captions)
    ids = {"i2t": (found.image_ids, found.caption_ids), "t2i": (found.caption_ids, found.image_ids)}
    search = {"i2t": part.image_to_text, "t2i": part.text_to_image}
    rankings, notes = {}, []
    for way, (queries, items) in ids.items():
        truth = ground_truth().positives(kind, way)
        number = {item: n for n, item in enumerate(items.tolist())}
        answers = [
            [number[item] for item in truth.get(query, ()) if item in number] for query in queries.tolist()
        ]
        rankings[way] = search[way](
            Positives.of_lists(answers), depth=depth, label=label and f"{label} {way}"
        )
        absent = sum(
            query in truth and not found for query, found in zip(queries.tolist(), answers, strict=True)
        )
        if absent:
            notes.append(f"{way}: {absent} queries are left out, all their positives are absent")
    return rankings, tuple(notes)


def _never_shown(kind: str, found: Gallery) -> dict[str, np.ndarray]:
    """Each query's positives that are in nobody's gallery: two captions beyond the first five of their image.

    The package counts them into R, so they are counted for a complete gallery; a partial one is judged by what is
    there.
    """
    shown = {"i2t": set(ground_truth().caption_ids.tolist()), "t2i": set(ground_truth().image_ids.tolist())}
    queries = {"i2t": found.image_ids, "t2i": found.caption_ids}
    return {
        way: np.array(
            [
                found.complete * len(set(ground_truth().positives(kind, way).get(query, ())) - shown[way])
                for query in ids.tolist()
            ]
        )
        for way, ids in queries.items()
    }


def _image_of_query(found: Gallery) -> dict[str, np.ndarray]:
    """The unit of each query: images are units, captions belong to theirs, to the first where theirs is absent."""
    number = {image: n for n, image in enumerate(found.image_ids.tolist())}
    image_of = _read("original_caption_to_image.json")
    captions = [number.get(image_of[caption][0], 0) for caption in found.caption_ids.tolist()]
    return {"i2t": np.arange(len(found.images)), "t2i": np.array(captions)}


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
        raise InputError("the package eccv-caption is not installed: pip install eccv-caption==0.1.0")
    return Path(spec.origin).parent / "data"

"""Flickr8k's human judgements: how well scores follow people who say which captions describe a photograph.

Hodosh et al., JAIR 47 (2013). Experts rate pairs of a photograph and a caption from 1 to 4, three judges each
(`ExpertAnnotations.txt`); crowd workers say whether a caption describes a photograph (`CrowdFlowerAnnotations.txt`).
Most captions were written for another photograph: they are the many-to-many truth that one-to-one recall lacks. The
figures are those of the field (Hessel et al., CLIPScore, 2021): Kendall's τ_c of the scores with every expert's
rating, without pairs of a photograph and its own caption, and τ_b with the crowd's share of yes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from cusa_jax.errors import InputError, one_line
from cusa_jax.evaluation.metrics import Metric
from cusa_jax.evaluation.result import Result, side_by_side
from cusa_jax.evaluation.sources import Captioned
from cusa_jax.evaluation.statistics import kendall
from cusa_jax.evaluation.suite import Dataset, Evaluation, Suite

EXPERTS, CROWD = "ExpertAnnotations.txt", "CrowdFlowerAnnotations.txt"


@dataclasses.dataclass(frozen=True)
class Judgements:
    """image: [n] names of photographs without ending. caption: [n] (name of its own photograph, its number there).

    judged: float64 [n, judges].
    """

    image: list[str]
    caption: list[tuple[str, int]]
    judged: np.ndarray

    @property
    def others(self) -> np.ndarray:
        """bool [n], which pairs are of a photograph and the caption of another one."""
        return np.array([image != own for image, (own, _) in zip(self.image, self.caption, strict=True)])


@dataclasses.dataclass(frozen=True)
class Rated:
    """Pairs that experts rated, and their scores by one model.

    image: [n] names of photographs without ending. caption: int64 [n] rows of the gallery.
    rating: float64 [n], the mean of the experts'. scores: float32 [n].
    rank: int64 [n], how many captions the model finds more like the photograph than this one.
    """

    image: list[str]
    caption: np.ndarray
    rating: np.ndarray
    scores: np.ndarray
    rank: np.ndarray


@dataclasses.dataclass(frozen=True)
class Judged:
    """Both kinds of judges of the same photographs."""

    experts: Judgements
    crowd: Judgements

    @classmethod
    def read(cls, folder: Path) -> Judged:
        """Raises InputError where a file of `folder` is missing or is no such file."""
        return cls(read_judgements(folder / EXPERTS), read_judgements(folder / CROWD))

    def results(self, captioned: Captioned) -> dict[str, Result]:
        """'expert' and 'crowd'."""
        return {
            "expert": expert_result(captioned, self.experts),
            "crowd": crowd_result(captioned, self.crowd),
        }


def rated(captioned: Captioned, judgements: Judgements) -> Rated:
    """The pairs of a photograph and another one's caption that the gallery holds."""
    image, caption = _rows(captioned, judgements)
    rows = np.flatnonzero((image >= 0) & (caption >= 0) & judgements.others)
    units, unit = np.unique(image[rows], return_inverse=True)
    all_scores = captioned.scores.rows("i2t", units)[unit]
    scores = all_scores[np.arange(len(rows)), caption[rows]]
    return Rated(
        [judgements.image[row] for row in rows],
        caption[rows],
        judgements.judged[rows].mean(axis=1),
        scores,
        (all_scores > scores[:, None]).sum(axis=1),
    )


def read_judgements(file: Path) -> Judgements:
    """Rows of image, caption and judgements, separated by tabs. Raises InputError naming the line that is not one."""
    try:
        lines = file.read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); it is in Flickr8k's text archive") from error
    images, captions, judged = [], [], []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            image, caption, *values = line.split("\t")
            own, _, place = caption.partition("#")
            images.append(Path(image).stem)
            captions.append((Path(own).stem, int(place)))
            judged.append([float(value) for value in values])
            if len(values) != len(judged[0]) or not np.isfinite(judged[-1]).all():
                raise ValueError("another number of judgements")
        except ValueError as error:
            raise InputError(
                f"{file}: line {number} is not an image, a caption FILE#NUMBER and judgements ({one_line(error)})"
            ) from error
    if not judged or not judged[0]:
        raise InputError(f"{file}: holds no judgements")
    return Judgements(images, captions, np.array(judged))


def expert_result(captioned: Captioned, judgements: Judgements) -> Result:
    """`tau_c` of the scores with every expert's rating, x 100; pairs of a photograph and its own caption left out."""
    return _result("tau_c", captioned, judgements, judgements.judged, judgements.others, "c")


def crowd_result(captioned: Captioned, judgements: Judgements) -> Result:
    """`tau_b` of the scores with the share of yes, x 100."""
    share = judgements.judged[:, :1]
    return _result("tau_b", captioned, judgements, share, np.ones(len(share), bool), "b")


def _result(
    key: str,
    captioned: Captioned,
    judgements: Judgements,
    ratings: np.ndarray,
    counted: np.ndarray,
    variant: Literal["b", "c"],
) -> Result:
    """Units are photographs. ratings: float [n, judges]. counted: bool [n], which pairs count."""
    image, caption = _rows(captioned, judgements)
    present = (image >= 0) & (caption >= 0) & counted
    if not present.any():
        raise InputError("none of the judged pairs is among the images and captions")
    units, unit = np.unique(image[present], return_inverse=True)
    scores = captioned.scores.rows("i2t", units)[unit, caption[present]]
    judges = ratings.shape[1]
    statistic = kendall(np.repeat(scores, judges), ratings[present].ravel(), np.repeat(unit, judges), variant)
    absent = np.count_nonzero(counted) - np.count_nonzero(present)
    notes = (f"{key}: {absent} of {np.count_nonzero(counted)} judged pairs are absent",) if absent else ()
    return Result("image", (len(units),), {key: statistic}, head=captioned.cross_head, notes=notes)


def _rows(captioned: Captioned, judgements: Judgements) -> tuple[np.ndarray, np.ndarray]:
    """The rows of each pair's image and caption, -1 where it is not there."""
    if not captioned.image_ids:
        raise InputError("judgements are of images by their names, and there are no image_ids")
    image_row = {Path(name).stem: row for row, name in enumerate(captioned.image_ids)}
    captions_of: dict[int, list[int]] = {}
    for row, image in enumerate(captioned.caption_image.tolist()):
        captions_of.setdefault(image, []).append(row)

    def caption(own: str, place: int) -> int:
        rows = captions_of.get(image_row.get(own, -1), [])
        return rows[place] if 0 <= place < len(rows) else -1

    images = [image_row.get(name, -1) for name in judgements.image]
    return np.array(images), np.array([caption(*one) for one in judgements.caption])


def _run(evaluation: Evaluation) -> Result:
    # What takes no time is found missing first.
    judged = Judged.read(evaluation.folder(FLICKR8K))
    captioned = evaluation.captioned(FLICKR8K)
    return side_by_side("judged image", judged.results(captioned), head=captioned.cross_head)


FLICKR8K = Dataset(
    "flickr8k",
    ("flickr8k",),
    f"it holds Flickr8k's test split in any layout, {EXPERTS} and {CROWD}",
)
HUMAN = Suite(
    "flickr8k_human",
    "Flickr8k, human judgements",
    (FLICKR8K,),
    _run,
    metrics=(
        Metric("expert_tau_c", "Kendall τ_c with experts"),
        Metric("crowd_tau_b", "Kendall τ_b with the crowd"),
    ),
)

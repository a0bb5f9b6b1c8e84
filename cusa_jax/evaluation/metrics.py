"""The vocabulary of evaluation: one name for each metric, in files, tables, plots and logs alike.

A key is made of the way of retrieval and the measure: `i2t_r1` is R@1 of images that look for captions.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Way = Literal["i2t", "t2i", ""]
Unit = Literal["%", "sum", "rank", "queries", "images"]
WAYS = {"i2t": "image → text", "t2i": "text → image"}


@dataclasses.dataclass(frozen=True)
class Metric:
    """What one key means. label: the measure, without its way.

    way: whose queries it is about; '' for both ways together, or where there is one only.
    logged: whether the line that training prints shows it. plotted: whether the learning curves show it.
    """

    key: str
    label: str
    way: Way = ""
    unit: Unit = "%"
    lower_is_better: bool = False
    logged: bool = False
    plotted: bool = False

    @property
    def title(self) -> str:
        """With the way in words: 'image → text, R@1'."""
        return f"{WAYS[self.way]}, {self.label}" if self.way else self.label

    @property
    def short(self) -> str:
        """For narrow tables: 'i2t R@1', and the key itself of what has no way."""
        return f"{self.way} {self.label}" if self.way else self.key


def _each_way(measure: str, label: str, **rest: Any) -> tuple[Metric, Metric]:
    return Metric(f"i2t_{measure}", label, "i2t", **rest), Metric(f"t2i_{measure}", label, "t2i", **rest)


_RECALLS = [_each_way(f"r{k}", f"R@{k}", logged=True, plotted=True) for k in (1, 5, 10)]
METRICS: tuple[Metric, ...] = (
    *(image_to_text for image_to_text, _ in _RECALLS),
    *(text_to_image for _, text_to_image in _RECALLS),
    *_each_way("r_mean", "mean recall"),
    Metric("r_mean", "mean recall", logged=True, plotted=True),
    Metric("rsum", "RSUM", unit="sum"),
    *_each_way("mean_rank", "mean rank", unit="rank", lower_is_better=True),
    *_each_way("median_rank", "median rank", unit="rank", lower_is_better=True),
    *_each_way("map_at_r", "mAP@R", plotted=True),
    Metric("map_at_r", "mAP@R", logged=True, plotted=True),
    *_each_way("rprecision", "R-Precision"),
    *_each_way("exact_r1", "exact R@1"),
    *_each_way("queries_left_out", "queries left out", unit="queries"),
    Metric("images_skipped", "images skipped", unit="images", lower_is_better=True),
)
RECALLS = tuple(metric.key for metric in METRICS[:6])


def described(key: str, own: Sequence[Metric] = ()) -> Metric:
    """The metric of a key, of METRICS or of a suite's `own`.

    A key that begins with a known one is that metric's part ('sts12_MSRpar' -> 'STS 12 MSRpar'); any other is its
    own label.
    """
    known = {metric.key: metric for metric in (*METRICS, *own)}
    if key in known:
        return known[key]
    first, _, rest = key.partition("_")
    label = known[first].label if first in known else first
    return Metric(key, f"{label} {rest.replace('_', ' ')}".strip())


def current(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The same metrics under today's keys: before, runs were logged as the reference names what is found.

    'txt_r1' -> 'i2t_r1' (an image finds a text), 'img_r_precision' -> 't2i_rprecision'.
    """
    return {_current(key): value for key, value in metrics.items()}


def _current(key: str) -> str:
    way = re.match("(txt|img)_", key)
    if not way:
        return key
    measure = key[len(way[0]) :].replace("r_precision", "rprecision")
    return f"{'i2t' if way[1] == 'txt' else 't2i'}_{measure}"

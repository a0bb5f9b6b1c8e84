"""The paper's figures for the same test data, to stand beside ours."""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

from cusa_jax.data.captions import CaptionTable

MODELS = {"vit_b_32": "CLIP ViT-B/32", "vit_l_14_336": "CLIP ViT-L/14@336"}
LOSSES = {"contrastive": "", "CSA": " + CSA", "USA": " + USA", "CUSA": " + CUSA"}
# How many images each of the paper's test sets has; those of In-Shop that ask. Others are no comparison. A run's test
# split must have the names of its files too (`suite`); an evaluation, whose suite names the data, goes by size alone.
IMAGES = {
    "flickr30k": 1000, "coco5k": 5000, "eccv": 5000, "cub": 5924, "sop": 60502, "inshop": 14218, "inat": 136093,
}  # fmt: skip
# Keys of the paper's tables and of our results.json.
KEYS = {
    "i2t R@1": ("i2t_r1", "txt_r1"),
    "i2t R@5": ("i2t_r5", "txt_r5"),
    "i2t R@10": ("i2t_r10", "txt_r10"),
    "t2i R@1": ("t2i_r1", "img_r1"),
    "t2i R@5": ("t2i_r5", "img_r5"),
    "t2i R@10": ("t2i_r10", "img_r10"),
    "RSUM": ("rsum", "rsum"),
}


def suite(table: CaptionTable) -> str | None:
    """'flickr30k' or 'coco5k' if a test split is the official one, going by its size and its files' names."""
    names = [path.stem for path in table.image_paths]
    five_each = len(table.captions) == 5 * len(names)
    if len(names) == IMAGES["flickr30k"] and five_each and all(name.isdecimal() for name in names):
        return "flickr30k"
    if len(names) == IMAGES["coco5k"] and all(name.startswith("COCO_val2014_") for name in names):
        return "coco5k"
    return None


def beside(test: Mapping[str, float], suite: str | None, model: str) -> dict[str, dict[str, float]]:
    """{metric: {'this run': ours, 'contrastive': the paper's, …}}; empty where the paper has no such figures.

    test: of results.json. model: `config.model.name`.
    """
    if suite is None or model not in MODELS:
        return {}
    tables = by_loss(suite)[MODELS[model]]
    return {
        metric: {"this run": test[ours]} | {loss: figures[theirs] for loss, figures in tables.items()}
        for metric, (theirs, ours) in KEYS.items()
    }


def by_loss(suite: str) -> dict[str, dict[str, dict[str, float]]]:
    """{model: {loss: {metric: figure}}} of the paper's CLIPs; metrics as `evaluation` names them, in percent.

    Empty where the paper has no such suite.
    """
    return {
        model: {loss: published()["models"][model + suffix][suite] for loss, suffix in LOSSES.items()}
        for model in MODELS.values()
        if suite in published()["models"][model]
    }


@functools.cache
def published() -> dict[str, Any]:
    """{"source": where in the paper and how measured, "models": {model: {suite: {metric: figure}}}}."""
    file = importlib.resources.files("cusa_jax") / "assets" / "published.json"
    return json.loads(file.read_text())

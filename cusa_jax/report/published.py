"""The paper's numbers for the same test data, to stand beside ours."""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.evaluation.metrics import METRICS
from cusa_jax.evaluation.recall import COCO5K, FLICKR30K

CLIPS = {"vit_b_32": "CLIP ViT-B/32", "vit_l_14_336": "CLIP ViT-L/14@336"}
# The last is the ensemble of the two before it.
OVER_REGIONS = {f"{name}{data}": name.upper() for name in ("sgr", "saf", "sgraf") for data in ("", "_coco")}
MODELS = CLIPS | OVER_REGIONS
LOSSES = {"contrastive": "", "CSA": " + CSA", "USA": " + USA", "CUSA": " + CUSA"}


def suite(table: CaptionTable) -> str | None:
    """'flickr30k' or 'coco5k' if a test split is the official one, going by its size and its files' names.

    An evaluation, whose suite names the data, goes by the size alone (`Suite.images`).
    """
    names = [path.stem for path in table.image_paths]
    five_each = len(table.captions) == 5 * len(names)
    if len(names) == FLICKR30K.images and five_each and all(name.isdecimal() for name in names):
        return "flickr30k"
    if len(names) == COCO5K.images and all(name.startswith("COCO_val2014_") for name in names):
        return "coco5k"
    return None


def beside(test: Mapping[str, float], suite: str | None, model: str) -> dict[str, dict[str, float]]:
    """{metric: {'this run': ours, 'contrastive': the paper's, …}}; empty where the paper has no such numbers.

    test: of results.json. model: `config.model.name`.
    """
    if suite is None or model not in MODELS:
        return {}
    tables = by_loss(suite)[MODELS[model]]
    return {
        metric.title: {"this run": test[metric.key]}
        | {loss: figures[metric.key] for loss, figures in tables.items()}
        for metric in METRICS
        if metric.key in test and all(metric.key in figures for figures in tables.values())
    }


def by_loss(suite: str) -> dict[str, dict[str, dict[str, float]]]:
    """{model: {loss: {metric: number}}} of the paper's models; metrics as `evaluation` names them, in percent.

    Empty where the paper has no such suite.
    """
    return {
        model: {loss: published()["models"][model + suffix][suite] for loss, suffix in LOSSES.items()}
        for model in MODELS.values()
        if suite in published()["models"][model]
    }


@functools.cache
def published() -> dict[str, Any]:
    """{"source": where in the paper and how measured, "models": {model: {suite: {metric: number}}}}."""
    file = importlib.resources.files("cusa_jax") / "assets" / "published.json"
    return json.loads(file.read_text())

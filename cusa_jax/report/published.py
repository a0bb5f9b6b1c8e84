"""The paper's figures for the same test split and the same model, to stand beside ours."""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping

from cusa_jax.data.captions import CaptionTable

MODELS = {"vit_b_32": "CLIP ViT-B/32", "vit_l_14_336": "CLIP ViT-L/14@336"}
LOSSES = {"contrastive": "", "CSA": " + CSA", "USA": " + USA", "CUSA": " + CUSA"}
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
    if len(names) == 1000 and len(table.captions) == 5000 and all(name.isdecimal() for name in names):
        return "flickr30k"
    if len(names) == 5000 and all(name.startswith("COCO_val2014_") for name in names):
        return "coco5k"
    return None


def beside(test: Mapping[str, float], suite: str | None, model: str) -> dict[str, dict[str, float]]:
    """{metric: {'this run': ours, 'contrastive': the paper's, …}}; empty where the paper has no such figures.

    test: of results.json. model: `config.model.name`.
    """
    if suite is None or model not in MODELS:
        return {}
    tables = {loss: _published()[MODELS[model] + suffix][suite] for loss, suffix in LOSSES.items()}
    return {
        metric: {"this run": test[ours]} | {loss: figures[theirs] for loss, figures in tables.items()}
        for metric, (theirs, ours) in KEYS.items()
    }


@functools.cache
def _published() -> dict[str, dict[str, dict[str, float]]]:
    file = importlib.resources.files("cusa_jax") / "assets" / "published.json"
    return json.loads(file.read_text())["models"]

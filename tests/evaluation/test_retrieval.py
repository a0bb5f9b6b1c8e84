"""Evaluation of a model on a split of files against the definition of recall, on several devices."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from cusa_jax import sharding
from cusa_jax.data.splits import load_split
from cusa_jax.evaluation.retrieval import Evaluator
from cusa_jax.models import families
from cusa_jax.models.student import Options

IMAGES, PER_IMAGE, UNREADABLE = 11, 3, 4
STUDENT = families.make(*families.presets()["toy"], Options())
WORDS = ("red", "blue", "a", "big", "small", "circle", "square", "left", "of", "the", "green")


@pytest.fixture
def split(tmp_path):
    draw = np.random.default_rng(0)
    rows = []
    for n in range(IMAGES):
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f"{n}.png")
        for _ in range(PER_IMAGE):
            caption = " ".join(draw.choice(WORDS, 6))
            rows.append({"image_path": f"{n}.png", "caption": caption, "image_id": str(n)})
    (tmp_path / "val.json").write_text(json.dumps(rows))
    (tmp_path / f"{UNREADABLE}.png").write_bytes(b"not an image")
    return load_split(str(tmp_path), "val", STUDENT.inputs, image_root="")


def test_recall_is_that_of_the_cross_modal_heads_over_the_readable_images(split):
    variables = jax.jit(STUDENT.init)(jax.random.key(1))
    config = ConfigDict({"eval": {"batch_size": 8}, "data": {"workers": 0, "on_bad_image": "skip"}})
    measured = Evaluator(STUDENT, sharding.make_mesh(), config)(variables, split)

    kept = [n for n in range(IMAGES) if n != UNREADABLE]
    pixels = np.stack([np.asarray(Image.open(split.table.image_paths[n])) for n in kept])
    rows = [n for n, image in enumerate(split.table.caption_image) if image != UNREADABLE]
    embed = jax.jit(STUDENT.embed, static_argnums=1)
    image, _ = embed(variables, "image", pixels)
    text, _ = embed(variables, "text", split.tokens[rows])
    scores = np.asarray(
        image / np.linalg.norm(image, axis=1)[:, None] @ (text / np.linalg.norm(text, axis=1)[:, None]).T
    )
    owner = np.array([kept.index(split.table.caption_image[row]) for row in rows])
    for k in (1, 5, 10):
        i2t = [np.isin(owner[np.argsort(-scores[n])[:k]], n).any() for n in range(len(kept))]
        t2i = [owner[n] in np.argsort(-scores[:, n])[:k] for n in range(len(rows))]
        assert measured[f"i2t_r{k}"] == pytest.approx(100 * np.mean(i2t))
        assert measured[f"t2i_r{k}"] == pytest.approx(100 * np.mean(t2i))
    assert measured["images_skipped"] == 1

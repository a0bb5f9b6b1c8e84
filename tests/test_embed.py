"""scripts/embed.py: its file gives the figures of the model itself, and finds every photo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cusa_jax.evaluation.coco import ground_truth
from cusa_jax.evaluation.open_source import open_source
from cusa_jax.evaluation.own import own_suite
from cusa_jax.evaluation.suite import Evaluation, Folders
from cusa_jax.evaluation.suites import SUITES
from cusa_jax.models.clip_sizes import ClipConfig
from cusa_jax.weights.formats import write_weights
from cusa_jax.weights.hub import Weights, template

ROOT = Path(__file__).parent.parent
SIZES = ClipConfig(
    embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=1, text_width=64, text_layers=1
)
WORDS = ("red", "dog", "sea", "car", "two", "tree", "man", "sky", "cup", "train")
RATINGS = {"sts": ("caption1", "caption2"), "sis": ("image1", "image2"), "sits": ("caption", "image")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model without a recipe, and sideways photos that are a part of COCO's test split, with ratings of CxC's kind.

    Their ids are not COCO's, which the file names say. One name is not UTF-8, and no caption's.
    """
    place, rng, turned = tmp_path_factory.mktemp("place"), np.random.default_rng(0), Image.Exif()
    turned[0x112] = 6
    shapes = template("clip", SIZES, ("cross",), "here")
    variables = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype("f4"), shapes)
    write_weights(place / "w.safetensors", Weights("clip", SIZES, variables, ("cross",)))
    (place / "coco").mkdir()
    captions_of, rows = ground_truth().positives("original", "i2t"), []
    annotated = list(ground_truth().positives("eccv", "i2t"))[:5]
    for n, image in enumerate([*annotated, None]):
        name = f"COCO_val2014_{image:012d}.png" if image else os.fsdecode(b"\xff.png")
        pixels = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "coco" / name, exif=turned)
        for caption in captions_of.get(image, ()):
            text = " ".join(rng.choice(WORDS, 5))
            rows.append({"image_path": name, "caption": text, "image_id": f"x{n}", "caption_id": caption})
    (place / "coco" / "test.json").write_text(json.dumps(rows))
    ids = {
        "caption": [f"COCO_val2014:sentid:{row['caption_id']}" for row in rows],
        "image": [row["image_path"].replace(".png", ".jpg") for row in rows],
    }
    (place / "cxc").mkdir()
    for kind, columns in RATINGS.items():
        first, second = (ids[column.rstrip("12")] for column in columns)
        # No item beside itself: that is as like as can be, but for rounding.
        pairs = zip(first, np.roll(second, 7), strict=True)
        lines = [f"{a},{b},{n % 5}" for n, (a, b) in enumerate(pairs)]
        (place / "cxc" / f"{kind}_test.csv").write_text("\n".join([f"{','.join(columns)},agg_score", *lines]))
    return place


def embed(place, *arguments):
    command = [sys.executable, ROOT / "scripts/embed.py", f"--checkpoint={place / 'w.safetensors'}"]
    done = subprocess.run(
        [*map(str, command), *arguments], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return place / "x.npz"


def figures(source, suite, place, **elsewhere):
    evaluation = Evaluation(source, Folders(SUITES.values(), str(place), elsewhere))
    return suite.run(evaluation).values()


@pytest.mark.parametrize(("name", "suites"), [("coco", ("coco5k", "eccv", "cxc")), ("mine", ("mine",))])
def test_the_figures_are_those_of_the_model_itself(place, monkeypatch, name, suites):
    monkeypatch.setitem(SUITES, "mine", own_suite("mine", str(place / "coco")))
    arrays = embed(place, "--data=coco", f"--name={name}", "--out=x.npz")
    for suite in suites:
        itself, given = (
            figures(
                open_source(str(path), batch_size=8, workers=0), SUITES[suite], place, mine=place / "coco"
            )
            for path in (place / "w.safetensors", arrays)
        )
        assert itself.keys() == given.keys()
        assert suite != "cxc" or "spearman_image_image" in itself
        assert given == pytest.approx(itself, abs=1e-9, nan_ok=True), suite


def test_a_photo_is_the_same_with_captions_and_without_and_every_name_leads_to_its_file(place):
    with np.load(embed(place, "--data=coco", "--out=x.npz")) as file:
        captioned = file["mine/image"]
    with np.load(embed(place, "--images=coco", "--out=x.npz")) as file:
        names, loose = [os.fsencode(name) for name in file["image_files"].tolist()], file["image"]
    assert sorted([*names, b"test.json"]) == sorted(os.listdir(os.fsencode(place / "coco")))
    order = [row["image_path"] for row in json.loads((place / "coco" / "test.json").read_text())[::5]]
    np.testing.assert_allclose(captioned, loose[[names.index(name.encode()) for name in order]], atol=1e-5)
    with np.load(embed(place, "--images=coco", "--as_shown=false", "--out=x.npz")) as file:
        assert np.abs(file["image"] - loose).max() > 0.01

"""The API of programs outside this tree, and scripts/embed.py; both against the student itself."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import cusa_jax
from cusa_jax.data.tokenize import tokenizer
from cusa_jax.errors import InputError
from cusa_jax.models.clip_sizes import ClipConfig
from cusa_jax.weights.formats import write_weights
from cusa_jax.weights.hub import Weights, template

ROOT = Path(__file__).parent.parent
SIZES = ClipConfig(
    embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=1, text_width=64, text_layers=1
)
TEXTS = ["a dog runs on the beach", "Two dogs sleep."]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, three photos, captions of them."""
    folder, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    shapes = template("clip", SIZES, ("cross",), "here")
    variables = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype("f4"), shapes)
    weights = Weights("clip", SIZES, variables, ("cross",))
    write_weights(folder / "w.safetensors", weights)
    (folder / "photos").mkdir()
    for n in range(3):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{n}.png")
    rows = [{"image": f"photos/{n}.png", "caption": TEXTS} for n in range(3)]
    (folder / "test.json").write_text(json.dumps(rows))
    (folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf8")
    return folder, weights


def expected(weights, side, rows):
    embedding = np.asarray(weights.student().encode_side(weights.variables, side, rows)["cross"])
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True)


def test_embeddings_are_the_students_own(place):
    folder, weights = place
    model = cusa_jax.load(folder / "w.safetensors", batch_size=2)
    files = [folder / f"photos/{n}.png" for n in range(3)]
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    images = model.encode_image(files)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected(weights, "image", pixels), atol=1e-6)
    np.testing.assert_array_equal(model.encode_image([Image.open(file) for file in files]), images)
    ids, _ = tokenizer(weights.student().inputs.text)(["a dog runs on the beach", "two dogs sleep"])
    np.testing.assert_allclose(model.encode_text(TEXTS), expected(weights, "text", ids), atol=1e-6)
    assert model.encode_text([]).shape == model.encode_image([]).shape == (0, 16)
    assert not np.allclose(model.encode_text(TEXTS, space="uni"), model.encode_text(TEXTS))
    for wrong in (lambda: model.encode_text("a dog"), lambda: model.encode_image(files[0])):
        with pytest.raises(InputError, match="given as a list"):
            wrong()
    with pytest.raises(InputError, match=r"none\.png"):
        model.encode_image([folder / "none.png"])


def embed(folder, *arguments):
    command = [
        sys.executable,
        ROOT / "scripts/embed.py",
        f"--checkpoint={folder / 'w.safetensors'}",
        *arguments,
    ]
    return subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)


def test_the_script_writes_what_evaluate_reads(place):
    folder, weights = place
    done = embed(folder, f"--data={folder}", "--name=coco", f"--image_root={folder}", "--out=x.npz")
    assert done.returncode == 0, done.stderr
    arrays = np.load(folder / "x.npz")
    pixels = np.stack([np.asarray(Image.open(folder / f"photos/{n}.png")) for n in range(3)])
    np.testing.assert_allclose(arrays["coco/image"], expected(weights, "image", pixels), atol=1e-6)
    np.testing.assert_array_equal(arrays["coco/caption_image"], [0, 0, 1, 1, 2, 2])
    assert arrays["coco/text"].shape == arrays["coco/uni_text"].shape == (6, 16)


def test_the_script_embeds_photos_and_lines(place):
    folder, _ = place
    done = embed(folder, "--images=photos", "--texts=texts.txt", "--out=y.npz")
    assert done.returncode == 0, done.stderr
    arrays, model = np.load(folder / "y.npz"), cusa_jax.load(folder / "w.safetensors")
    assert arrays["image_files"].tolist() == ["0.png", "1.png", "2.png"]
    np.testing.assert_allclose(arrays["text"], model.encode_text(TEXTS), atol=1e-6)
    done = embed(folder, "--texts=none.txt", "--out=z.npz")
    assert done.returncode == 2
    assert done.stderr.startswith("error: none.txt: not a readable file")
    assert not (folder / "z.npz").exists()

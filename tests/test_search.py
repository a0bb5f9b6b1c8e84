"""From a training's folder to found photos: the model is loaded whole, and the command finds what its scores say."""

import dataclasses
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cusa_jax import sharding
from cusa_jax.checkpoint import Checkpoints
from cusa_jax.config import default_config, typed
from cusa_jax.data.images import load_image, normalise
from cusa_jax.data.tokenize import ClipTokenizer
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.experiment import build_student
from cusa_jax.models import clip
from cusa_jax.models.clip import PRESETS
from cusa_jax.models.families import describe
from cusa_jax.models.student import Options
from cusa_jax.scalars import init, specifications
from cusa_jax.search import index, ingest, model
from cusa_jax.search.index import fingerprint
from cusa_jax.types import TrainState
from cusa_jax.weights.formats import load_model, read_weights, write_weights
from cusa_jax.weights.hub import Weights

ROOT = Path(__file__).parent.parent
TEXT = "a red wedge"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a training that ended before its first step: (workdir, model, its variables)."""
    config = default_config()
    config.model.name = "toy"
    workdir = tmp_path_factory.mktemp("run") / "run"
    student, variables, _ = build_student(typed(config))
    params = {"model": variables["params"], "scalars": init(specifications(config.loss))}
    described = {"config": config.to_dict(), **describe(student.family, student.sizes)}
    checkpoints = Checkpoints(workdir, described, 1)
    checkpoints.save_best(3, TrainState(jax.numpy.int32(3), params, {}, ()), {"r_mean": 1.0})
    checkpoints.close()
    return workdir, student, jax.device_get(variables)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for n in range(11):
        Image.fromarray(rng.integers(0, 256, (40, 32 + n, 3), np.uint8)).save(folder / f"{n:02}.png")
    (folder / "broken.jpg").write_text("no photo")
    return folder


def embeddings(student, variables, photos, text):
    """Of the photos and of the text, one by one, by the model itself."""

    @functools.partial(jax.jit, static_argnums=0)
    def embed(side, rows):
        return student.embed(variables, side, rows)

    variables = jax.tree.map(jax.numpy.asarray, variables)
    pixels = [load_image(path, student.inputs.image) for path in sorted(photos.glob("*.png"))]
    images = [embed("image", normalise(picture[None])) for picture in pixels]
    texts = [embed("text", ClipTokenizer()([text])[0])]
    both = [np.concatenate([np.asarray(pair[head], np.float64) for pair in rows])
            for rows in (images, texts) for head in (0, 1)]  # fmt: skip
    return [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in both]


def test_the_model_comes_back_bit_for_bit(trained):
    workdir, model, variables = trained
    again, loaded = load_model(workdir)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_a_fingerprint_is_of_every_bit_of_the_model(trained):
    _, model, variables = trained
    copy = jax.tree.map(np.array, variables)
    assert fingerprint(model, copy) == fingerprint(model, variables)
    darker = dataclasses.replace(model.sizes, mean=(0.4, 0.4, 0.4))
    for other in (clip.student(darker, Options()), clip.student(model.sizes, Options(heads=("cross",)))):
        assert fingerprint(other, copy) != fingerprint(model, variables)
    assert fingerprint(model, copy, "bfloat16") != fingerprint(model, variables)
    copy["params"]["cross_text"]["ln"]["bias"][5] = 1e-30
    assert fingerprint(model, copy) != fingerprint(model, variables)


def test_batches_of_any_size_give_each_rows_own_embedding(trained, photos):
    _, model, variables = trained
    encoder = Encoder(model, sharding.make_mesh(), 3)
    assert encoder.batch_size == 8  # a row on each device
    pixels = np.stack([load_image(path, model.inputs.image) for path in sorted(photos.glob("*.png"))])
    tokens, _ = ClipTokenizer()([TEXT])
    found = [*encoder.images(variables, pixels), *encoder.texts(variables, tokens)]
    for ours, expected in zip(found, embeddings(model, variables, photos, TEXT), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_queries_compute_in_the_dtype_of_their_index(trained, photos, tmp_path):
    """In what the run trained in where that is asked for; a bit off float32, and the index says which."""
    workdir, _, _ = trained
    held = read_weights(workdir)
    config = held.config.copy_and_resolve_references()
    config.model.dtype = "bfloat16"
    half = tmp_path / "half.safetensors"
    write_weights(half, dataclasses.replace(held, config=config))
    encoder, variables, fingerprint = model.load(str(half), 8, "run")
    assert model.load(str(half), 8)[2] == fingerprint.removesuffix(" bfloat16")
    assert model.load(str(workdir), 8, "run")[2] == model.load(str(workdir), 8)[2]
    origin = index.Origin(str(photos), str(half), fingerprint)
    assert ingest.update(tmp_path / "index", origin, encoder, variables).encoded == 11
    asked, _ = model.open_index(tmp_path / "index").embed_text(TEXT)
    tokens, _ = ClipTokenizer()([TEXT])
    expected, _ = encoder.texts(variables, tokens)
    np.testing.assert_allclose(asked, expected[0], atol=1e-6)
    _, _, exact, _ = embeddings(trained[1], trained[2], photos, TEXT)
    assert 1e-4 < np.abs(asked - exact[0]).max() < 0.02


def test_a_broken_model_is_told(trained):
    _, model, variables = trained
    broken = jax.tree.map(lambda x: x * np.float32(np.nan), variables)
    encoder = Encoder(model, sharding.make_mesh(), 8)
    with pytest.raises(InputError, match="the model that it comes from is broken"):
        encoder.images(broken, np.zeros((1, 32, 32, 3), np.uint8))


def test_the_command_finds_what_the_model_scores_highest(trained, photos, tmp_path):
    workdir, model, variables = trained
    index, page = tmp_path / "index", tmp_path / "found.html"
    done = search("index", photos, f"--checkpoint={workdir}", f"--out={index}")
    assert done.stdout == f"{index}: 11 photos encoded, 0 unchanged, 0 removed, 1 unreadable\n"
    assert f"skipped: {photos}/broken.jpg: not a readable image" in done.stderr

    cross_image, uni_image, cross_text, _ = embeddings(model, variables, photos, TEXT)
    asked = sorted(photos.glob("*.png"))[4]
    for arguments, scores in (
        ([TEXT, f"--html={page}"], cross_image @ cross_text[0]),
        ([f"--image={asked}"], uni_image @ uni_image[4]),
    ):
        done = search("query", index, *arguments, "--k=6")
        told = re.findall(r"^(-?\d\.\d{4})  .*/(\d+)\.png$", done.stdout, re.M)
        best = np.argsort(-scores, kind="stable")[:6]
        assert [int(name) for _, name in told] == best.tolist()
        np.testing.assert_allclose([float(score) for score, _ in told], scores[best], atol=1e-4)
    assert page.read_text().count("<img") == 6


def test_many_texts_through_a_pipe_of_photos_that_were_moved_near_duplicates_as_one(
    trained, photos, tmp_path
):
    workdir, model, variables = trained
    search("index", photos, f"--checkpoint={workdir}", f"--out={tmp_path}/index")
    cross_image, uni_image, cross_text, _ = embeddings(model, variables, photos, TEXT)
    asked = [
        "query",
        tmp_path / "index",
        "--texts=-",
        "--together",
        "--alike=0.9",
        "--k=2",
        f"--photos={tmp_path}/moved",
    ]
    done = search(*asked, given=f"{TEXT}\n\n  {'a wedge ' * 60}\n")
    heads = [line for line in done.stdout.splitlines() if line.startswith("#")]
    assert heads == [f"# {TEXT}", f"# {'a wedge ' * 60}".strip()]
    assert done.stderr == "only the beginning of the text was used: it is longer than the model reads\n"
    best = list(np.argsort(-(cross_image @ cross_text[0]), kind="stable"))
    expected = []
    while best:
        alike = [other for other in best if uni_image[best[0]] @ uni_image[other] >= 0.9]
        expected.append((f"{tmp_path}/moved/{best[0]:02}.png", len(alike) - 1))
        best = [other for other in best if other not in alike]
    told = re.findall(r"^-?\d\.\d{4}  (\S+)(?:  \(and (\d+) alike\))?$", done.stdout.split("#")[1], re.M)
    assert [(name, int(alike or 0)) for name, alike in told] == expected[:2]
    assert any(alike for _, alike in told)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a text", "--image=cat.jpg"], "query needs texts or a photo"),
        (["a text", "another", "--html=found.html"], "--html shows what one text or photo finds"),
        (["--texts=none.txt"], "none.txt: cannot be read (No such file or directory)"),
    ],
)
def test_what_cannot_be_asked_is_told_before_the_index_is_opened(arguments, message):
    assert message in search("query", "no.index", *arguments, fails=True).stderr


def test_a_model_of_another_vocabulary_cannot_search(photos, tmp_path):
    student = clip.student(dataclasses.replace(PRESETS["toy"], vocab_size=32000), Options(heads=()))
    weights = Weights("clip", student.sizes, jax.device_get(jax.jit(student.init)(jax.random.key(0))))
    write_weights(tmp_path / "other.safetensors", weights)
    arguments = ["index", photos, f"--checkpoint={tmp_path}/other.safetensors", f"--out={tmp_path}/index"]
    done = search(*arguments, fails=True)
    assert done.stderr.startswith(
        f"error: {tmp_path}/other.safetensors: the model has 32000 token ids, CLIP's"
    )
    assert not (tmp_path / "index").exists()


def search(*arguments, fails: bool = False, given: str = "") -> subprocess.CompletedProcess:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "scripts/search.py", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == (2 if fails else 0), done.stderr
    return done

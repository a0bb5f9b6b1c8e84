"""Banks: the same soft labels as the live teachers, from a table that is computed once and split over devices."""

import importlib.resources
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import similarity
from cusa_jax.config import default_config
from cusa_jax.data import world
from cusa_jax.data.splits import load_split
from cusa_jax.errors import InputError
from cusa_jax.experiment import load_teachers
from cusa_jax.sharding import make_mesh, put_params, put_rows
from cusa_jax.teachers import bank
from cusa_jax.teachers.control import teacher_features
from cusa_jax.teachers.features import write_features
from cusa_jax.teachers.load import load_image_teacher
from cusa_jax.types import Batch, Teacher

SAMPLES, WIDTH = 21, 24
TEACHERS = importlib.resources.files("cusa_jax") / "assets" / "world_teachers"


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(fsdp=2)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    folder = world.write(tmp_path_factory.mktemp("world") / "world", {"train": SAMPLES, "val": 1, "test": 1})
    return load_split(str(folder), "train", image_root="", context_length=77)


def config(**teacher):
    config = default_config()
    config.teacher.image, config.teacher.text = str(TEACHERS / "image"), str(TEACHERS / "text")
    config.eval.batch_size = 8
    config.teacher.update(teacher)
    return config


def batch_of(train, images, captions):
    """What the live teachers look at, and the numbers that a bank looks up."""
    captions = np.array(captions, np.int32)
    images = np.array(images, np.int32)
    pixels = np.stack([train.table.read_image(image, 32)[0] for image in images.tolist()])
    return Batch(pixels, train.tokens[captions], images, captions, images, captions)


def soft_labels(teachers, train, mesh, batch):
    params = put_params({"image": teachers.image.params, "text": teachers.text.params}, mesh)
    if teachers.text.tokenize:
        text = teachers.text.tokenize([train.captions[n] for n in batch.caption_index])
        batch = batch.replace(teacher_text=text)
    rows = jax.tree.map(lambda x: put_rows(np.asarray(x), mesh), batch)
    return jax.jit(
        lambda params, rows: similarity.teacher(*teacher_features(teachers, params, rows, "none"))
    )(params, rows)


def test_live_teachers_and_bank_give_the_same_soft_labels(tmp_path, train, mesh):
    batch = batch_of(train, [3, 20, 0, 7, 7, 11, 19, 4], [0, 104, 17, 52, 53, 8, 99, 30])
    live = soft_labels(load_teachers(config(), train, mesh), train, mesh, batch)
    banked = config(bank=str(tmp_path / "bank"))
    for options, tolerance in (({}, 2e-6), ({}, 2e-6), ({"bank_dtype": "bfloat16"}, 5e-3)):
        banked.teacher.update(options)
        teachers = load_teachers(banked, train, mesh)
        assert teachers.image.inputs == teachers.text.inputs == "index"
        assert teachers.image.params["features"].dtype == options.get("bank_dtype", "float32")
        found = soft_labels(teachers, train, mesh, batch)
        np.testing.assert_allclose(found.image, live.image, atol=tolerance)
        np.testing.assert_allclose(found.text, live.text, atol=tolerance)
    assert float(jnp.ptp(live.image)) > 0.3  # there is something to tell apart


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dtype": "bfloat16"}, "dtype"),
        ({"bank_width": 16}, "width"),
        ({"max_length": 9}, "max length"),
        ({"text": "weights"}, "teacher files"),
        ({"captions": True}, "samples"),
    ],
)
def test_bank_of_another_teacher_or_other_samples_is_refused(
    tmp_path, train, mesh, monkeypatch, change, told
):
    """The fingerprint alone decides: the teachers are not even loaded."""
    source = tmp_path / "teacher"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(b"weights")
    settings = config(bank=str(tmp_path / "bank"), image=str(source), text=str(source))
    monkeypatch.setattr("cusa_jax.experiment.load_image_teacher", lambda *args, **options: linear_teacher(32))
    monkeypatch.setattr("cusa_jax.experiment.load_text_teacher", lambda *args, **options: counting_teacher())
    load_teachers(settings, train, mesh)
    load_teachers(settings, train, mesh)
    if "text" in change:
        (source / "model.safetensors").write_bytes(b"weighty")
    elif "captions" in change:
        captions = [*train.captions[:-1], "another"]
        train = type(train)(train.table, captions, train.tokens, train.relevance)
    else:
        settings.teacher.update(change)
    with pytest.raises(InputError, match=rf"bank\.json: the bank was computed with other {told};"):
        load_teachers(settings, train, mesh)


def linear_teacher(size=8):
    weights = np.random.default_rng(0).normal(size=(size * size * 3, WIDTH)).astype(np.float32)

    def apply(params, pixels):
        return pixels.reshape(len(pixels), -1).astype(jnp.float32) / 255 @ params

    return Teacher("linear", weights, apply, "pixels", size)


def counting_teacher():
    """A text teacher whose feature is the number of letters and of words."""

    def tokenize(captions):
        lengths = [len(caption.split()) for caption in captions]
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
        letters = np.array([len(caption) for caption in captions])
        return {"input_ids": mask * letters[:, None].astype(np.int32), "attention_mask": mask}

    def apply(params, text):
        return jnp.stack([text["input_ids"][:, 0], text["attention_mask"].sum(1)], 1).astype(jnp.float32)

    return Teacher("counting", {}, apply, "text", tokenize=tokenize)


def make(folder, teacher, train, mesh, samples=SAMPLES, inputs=None, **options):
    inputs = inputs or bank.training_inputs(train.table, train.captions, 8)
    return bank.bank_teacher(
        folder, {"of": "test"}, lambda: teacher, inputs, mesh, samples=samples, **options
    )


def table(teacher):
    return np.asarray(teacher.params["features"])


def test_every_row_is_its_own_sample_s_feature(tmp_path, train, mesh):
    teacher = linear_teacher()
    pixels = np.stack([train.table.read_image(n, 8)[0] for n in range(SAMPLES)])
    found = table(make(tmp_path / "image", teacher, train, mesh))
    np.testing.assert_allclose(found[:SAMPLES], teacher.apply(teacher.params, pixels), rtol=1e-4, atol=1e-4)
    count = len(train.captions)
    found = table(make(tmp_path / "text", counting_teacher(), train, mesh, count))
    np.testing.assert_array_equal(found[:count], [[len(c), len(c.split())] for c in train.captions])
    stored = np.random.default_rng(1).normal(size=(SAMPLES, 5)).astype(np.float16)
    read = Teacher("file", {"features": stored}, None, "index")
    np.testing.assert_array_equal(table(make(tmp_path / "file", read, train, mesh))[:SAMPLES], stored)


def test_a_feature_file_is_compacted_by_the_bank(tmp_path, train, mesh):
    features = np.random.default_rng(1).normal(size=(SAMPLES, 500)).astype(np.float32)
    write_features(tmp_path / "features.npz", train.table.image_ids, features)
    teacher = load_image_teacher(str(tmp_path / "features.npz"), image_ids=train.table.image_ids)
    found = table(make(tmp_path / "bank", teacher, train, mesh, width=100))
    np.testing.assert_allclose(found[:SAMPLES], bank.project(features, 100), rtol=1e-5, atol=1e-5)


def test_killed_and_continued_computes_only_the_rest(tmp_path, train, mesh, monkeypatch):
    monkeypatch.setattr(bank, "_BATCHES_BETWEEN_SAVES", 1)
    whole = table(make(tmp_path / "whole", linear_teacher(), train, mesh))
    inputs, firsts = bank.training_inputs(train.table, train.captions, 8), []

    def killed(teacher, first):
        yield from itertools.islice(inputs(teacher, first), 2)
        raise KeyboardInterrupt

    def continued(teacher, first):
        firsts.append(first)
        yield from inputs(teacher, first)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "bank", linear_teacher(), train, mesh, inputs=killed)
    np.testing.assert_array_equal(
        table(make(tmp_path / "bank", linear_teacher(), train, mesh, inputs=continued)), whole
    )
    make(tmp_path / "bank", None, train, mesh, inputs=continued)  # complete: the teacher is not needed
    assert firsts == [2]


def test_damaged_banks_are_named(tmp_path, train, mesh):
    make(tmp_path / "bank", linear_teacher(), train, mesh)
    features = tmp_path / "bank" / "features.f32"
    features.write_bytes(features.read_bytes()[:-4])
    with pytest.raises(InputError, match=rf"features\.f32: is not \[{SAMPLES}, {WIDTH}\]"):
        make(tmp_path / "bank", linear_teacher(), train, mesh)
    for broken in ("{", "[]", json.dumps({"fingerprint": 3, "shape": [1]})):
        (tmp_path / "bank" / "bank.json").write_text(broken)
        with pytest.raises(InputError, match=r"bank\.json: not a readable record of a bank"):
            make(tmp_path / "bank", linear_teacher(), train, mesh)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_look_up_is_indexing_though_each_device_holds_its_rows_only(tmp_path, train, mesh, dtype):
    features = np.random.default_rng(2).normal(size=(SAMPLES, 5)).astype(np.float32)
    teacher = make(
        tmp_path / "bank", Teacher("file", {"features": features}, None, "index"), train, mesh, dtype=dtype
    )
    index = np.random.default_rng(3).integers(0, SAMPLES, 40).astype(np.int32)
    index[:3] = SAMPLES - 1, SAMPLES - 1, 0
    params = put_params(teacher.params, mesh)
    assert params["features"] is teacher.params["features"]
    assert {shard.data.shape[0] for shard in params["features"].addressable_shards} == {
        3
    }  # 21 over 8 devices
    looked_up = jax.jit(teacher.apply)(params, put_rows(index, mesh))
    expected = features.astype(jnp.dtype(dtype)).astype(np.float32)[index]
    np.testing.assert_array_equal(looked_up, expected)
    assert looked_up.dtype == jnp.float32
    assert {shard.data.shape[0] for shard in looked_up.addressable_shards} == {5}


def test_projection_keeps_inner_products():
    """Exact at full width; below it, errors of the predicted size around zero."""
    draw = np.random.default_rng(4)
    features = (draw.normal(size=(200, 3000)) + 0.7 * draw.normal(size=3000)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    exact = features @ features.T
    whole = np.asarray(bank.project(features, 3000))
    np.testing.assert_allclose(whole @ whole.T, exact, atol=2e-6)
    others = ~np.eye(200, dtype=bool)
    for width in (300, 1500):
        found = np.asarray(bank.project(features, width))
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
        error = (found @ found.T - exact)[others]
        predicted = (1 - exact[others].mean() ** 2) * np.sqrt((1 - width / 3000) / width)
        assert 0.8 < error.std() / predicted < 1.2
        assert abs(error.mean()) < predicted

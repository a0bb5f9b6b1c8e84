"""A run's teachers: the same soft labels live, from feature files and from banks."""

import dataclasses
import importlib.resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cusa_jax import similarity
from cusa_jax.config import default_config, with_argument
from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.sharding import make_mesh, put_rows
from cusa_jax.teachers import checkpoints, unicom
from cusa_jax.teachers.apply import teacher_features
from cusa_jax.teachers.features import caption_keys, write_features
from cusa_jax.teachers.live import load_image_teacher
from cusa_jax.teachers.load import load_teachers
from cusa_jax.teachers.projection import project
from cusa_jax.types import Batch
from cusa_jax.weights import torch_file, torch_layout

TEACHERS = importlib.resources.files("cusa_jax") / "assets" / "world_teachers"
IMAGE_COUNT = 21
IMAGES, CAPTIONS = [3, 20, 0, 7, 7, 11, 19, 4], [0, 104, 17, 52, 53, 8, 99, 30]


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(fsdp=2)


@pytest.fixture(scope="module")
def live(world_train, mesh):
    found = soft_labels(*load_teachers(config(), world_train, mesh), world_train, mesh)
    assert float(jnp.ptp(found.image)) > 0.3  # there is something to tell apart
    return found


def config(**teacher):
    config = default_config()
    config.teacher.image, config.teacher.text = str(TEACHERS / "image"), str(TEACHERS / "text")
    config.eval.batch_size = 8
    config.teacher.update(teacher)
    return config


def pixels(train):
    return np.stack([train.images.read(image, Pixels(32))[0] for image in IMAGES])


def soft_labels(teachers, params, train, mesh):
    """Of the photographs IMAGES and the captions CAPTIONS, by whatever the teachers take."""
    images, captions = np.array(IMAGES, np.int32), np.array(CAPTIONS, np.int32)
    batch = Batch(pixels(train), train.tokens[captions], images, captions, images, captions)
    if teachers.text.tokenize:
        batch = batch.replace(teacher_text=teachers.text.tokenize([train.captions[n] for n in CAPTIONS]))
    rows = jax.tree.map(lambda x: put_rows(np.asarray(x), mesh), batch)
    return jax.jit(lambda params, rows: similarity.teacher(*teacher_features(teachers, params, rows)))(
        params, rows
    )


def test_a_bank_s_are_the_live_teachers(tmp_path, world_train, mesh, live):
    banked = config(bank=str(tmp_path / "bank"))
    for options, tolerance in (({}, 2e-6), ({}, 2e-6), ({"stored_dtype": "bfloat16"}, 5e-3)):
        banked.teacher.update(options)
        teachers, params = load_teachers(banked, world_train, mesh)
        assert teachers.image.inputs == teachers.text.inputs == "index"
        assert params["image"].dtype == options.get("stored_dtype", "float32")
        found = soft_labels(teachers, params, world_train, mesh)
        np.testing.assert_allclose(found.image, live.image, atol=tolerance)
        np.testing.assert_allclose(found.text, live.text, atol=tolerance)


def test_a_file_s_are_looked_up_and_narrowed(tmp_path, world_train, mesh):
    """It is a bank already: none is made of it."""
    table, draw = world_train.table, np.random.default_rng(1)
    keys = caption_keys(table.image_ids, table.caption_image)
    images = draw.normal(size=(len(table.image_ids), 500)).astype(np.float16)
    texts = draw.normal(size=(len(keys), 60)).astype(np.float32)
    write_features(tmp_path / "images.npz", table.image_ids, images)
    write_features(tmp_path / "texts.npz", keys, texts)
    settings = config(image=str(tmp_path / "images.npz"), text=str(tmp_path / "texts.npz"), width=100)
    settings.teacher.bank = str(tmp_path / "bank")
    teachers, params = load_teachers(settings, world_train, mesh)
    assert not (tmp_path / "bank").exists()
    assert params["image"].shape == (24, 100)  # 21 rows over 8 devices
    assert {shard.data.shape[0] for shard in params["image"].addressable_shards} == {3}
    found = soft_labels(teachers, params, world_train, mesh)
    narrow = project(images[IMAGES].astype(np.float32), 100)
    expected = similarity.teacher(narrow, texts[CAPTIONS])
    np.testing.assert_allclose(found.image, expected.image, atol=2e-6)
    np.testing.assert_allclose(found.text, expected.text, atol=2e-6)


def test_live_teachers_and_their_bank_are_narrowed(tmp_path, world_train, mesh):
    whole, params = load_teachers(config(), world_train, mesh)
    image = whole.image.apply(params["image"], pixels(world_train))
    text = whole.text.apply(params["text"], whole.text.tokenize([world_train.captions[n] for n in CAPTIONS]))
    expected = similarity.teacher(project(image, 16), project(text, 16))
    for bank in ("", str(tmp_path / "bank")):
        found = soft_labels(*load_teachers(config(width=16, bank=bank), world_train, mesh), world_train, mesh)
        np.testing.assert_allclose(found.image, expected.image, atol=3e-6)
        np.testing.assert_allclose(found.text, expected.text, atol=3e-6)


def test_the_uniform_control_looks_at_nothing(world_train, mesh):
    teachers, params = load_teachers(config(control="uniform", image="missing.npy"), world_train, mesh)
    assert teachers.image.inputs == teachers.text.inputs == "index"
    found = soft_labels(teachers, params, world_train, mesh)
    others = ~np.eye(len(IMAGES), dtype=bool)
    others[3, 4] = others[4, 3] = False  # the same photograph twice
    assert np.abs(np.asarray(found.image))[others].max() < 0.2


def test_without_csa_and_usa_teachers_only_measure(world_train, mesh, capsys):
    settings = with_argument(config(), "loss=contrastive")
    assert load_teachers(settings, world_train, mesh)[0] is not None
    assert "the teachers only measure them" in capsys.readouterr().out
    settings.teacher.image = "missing.npy"
    with pytest.raises(InputError, match=r"missing\.npy: .*--config\.teacher\.text= leaves them out"):
        load_teachers(settings, world_train, mesh)


@pytest.mark.parametrize("released", [False, True])
def test_a_bank_takes_unicom_as_a_folder_and_as_its_own_file(tmp_path, world_train, mesh, released):
    sizes = unicom.UnicomConfig(16, 8, 64, 1, num_heads=1)
    shapes = jax.eval_shape(unicom.Unicom(sizes).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes["params"])
    source = tmp_path / ("FP16-ViT.pt" if released else "unicom")
    if released:
        torch_file.write(source, torch_layout.to_torch(params, unicom.key_table(sizes)))
    else:
        checkpoints.save(source, sizes, params)
    settings = config(image=str(source), bank=str(tmp_path / "bank"))
    _, teacher_params = load_teachers(settings, world_train, mesh)
    table = np.asarray(teacher_params["image"])
    photographs = np.stack([world_train.images.read(n, Pixels(16))[0] for n in range(IMAGE_COUNT)])
    live, live_params = load_image_teacher(str(source))
    np.testing.assert_allclose(
        table[:IMAGE_COUNT], live.apply(live_params, photographs), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dtype": "bfloat16"}, "dtype"),
        ({"width": 16}, "width"),
        ({"max_length": 9}, "max length"),
        ({"text": "weights"}, "teacher files"),
        ({"captions": True}, "samples"),
    ],
)
def test_bank_of_another_teacher_or_other_samples_is_refused(
    tmp_path, world_train, mesh, monkeypatch, change, told
):
    """The fingerprint alone decides: the teachers are not even loaded."""
    source = tmp_path / "teacher"
    source.mkdir()
    for file in (TEACHERS / "text").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    settings, train = config(bank=str(tmp_path / "bank"), text=str(source)), world_train
    load_teachers(settings, train, mesh)
    for modality in ("image", "text"):
        monkeypatch.setattr(f"cusa_jax.teachers.load.load_{modality}_teacher", None)
    load_teachers(settings, train, mesh)
    if "text" in change:
        with (source / "model.safetensors").open("ab") as weights:
            weights.write(b"more")
    elif "captions" in change:
        captions = [*train.captions[:-1], "another"]
        train = dataclasses.replace(train, captions=captions)
    else:
        settings.teacher.update(change)
    with pytest.raises(InputError, match=rf"bank\.json: the bank was computed with other {told};"):
        load_teachers(settings, train, mesh)


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_missing_feature_file_is_named(world_train, mesh, side):
    with pytest.raises(InputError, match=r"missing\.npy: no such file or folder"):
        load_teachers(config(**{side: "missing.npy"}), world_train, mesh)

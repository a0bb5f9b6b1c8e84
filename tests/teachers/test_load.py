"""A run's teachers: the same soft labels live, from feature files and from banks."""

import dataclasses
import gc
import importlib.resources
import re
import weakref

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
from cusa_jax.teachers.bank import teacher_fingerprint
from cusa_jax.teachers.bank_files import Record
from cusa_jax.teachers.features import caption_keys, write_features
from cusa_jax.teachers.live import IMAGE_TEACHERS, load_image_teacher, load_text_teacher
from cusa_jax.teachers.load import banks_to_compute, load_teachers
from cusa_jax.teachers.projection import project
from cusa_jax.types import Batch, Teacher
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


def test_parameters_are_on_the_mesh_and_nowhere_else(world_train, mesh, monkeypatch):
    """No second copy on the host outlives the loading, and none is a constant of the compiled program.

    On a CPU the memory of the host's array may become the device's, which is then the only one.
    """
    on_host = []

    def watched(load):
        def loaded(*arguments, **options):
            teacher, params = load(*arguments, **options)
            # Copies that own their memory, as arrays mapped from a file do not.
            params = jax.tree.map(np.array, params)
            on_host.extend(map(weakref.ref, jax.tree.leaves(params)))
            return teacher, params

        return loaded

    monkeypatch.setattr("cusa_jax.teachers.load.load_image_teacher", watched(load_image_teacher))
    monkeypatch.setattr("cusa_jax.teachers.load.load_text_teacher", watched(load_text_teacher))
    teachers, params = load_teachers(config(), world_train, mesh)
    gc.collect()
    assert len(on_host) == len(jax.tree.leaves(params)) > 20
    shards = [shard.data for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards]
    on_devices = [shard.unsafe_buffer_pointer() for shard in shards]
    for array in (reference() for reference in on_host):
        assert array is None or any(0 <= at - array.ctypes.data < array.nbytes for at in on_devices)
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves(params)} == {mesh}

    rows, numbers = pixels(world_train), np.arange(len(IMAGES), dtype=np.int32)
    text = teachers.text.tokenize([world_train.captions[n] for n in CAPTIONS])
    batch = Batch(rows, numbers, numbers, numbers, numbers, numbers, teacher_text=text)

    def largest_constant(*arguments):
        program = jax.jit(lambda params, batch: teacher_features(teachers, *arguments or (params, batch)))
        program = program.lower(params, batch).as_text()
        return max(
            (len(constant) for constant in re.findall(r"stablehlo\.constant dense<[^>]*>", program)),
            default=0,
        )

    assert largest_constant() < 10_000
    assert largest_constant(params, batch) > 30_000


@pytest.mark.parametrize("bank", [False, True])
def test_a_teacher_from_outside_is_an_entry_of_the_table(tmp_path, world_train, mesh, monkeypatch, bank):
    """Mean colours, seen at 16 pixels."""

    def load_mean_colour(folder):
        def apply(params, pixels):
            return (pixels.astype(jnp.float32).mean((1, 2)) - 127) @ params["mix"]

        mix = np.full((3, 3), folder.config["shared"]) + np.eye(3)
        return Teacher(folder.name, apply, "pixels", image=Pixels(16)), {"mix": mix.astype(np.float32)}

    monkeypatch.setitem(IMAGE_TEACHERS, "mean_colour", load_mean_colour)
    (tmp_path / "config.json").write_text('{"model_type": "mean_colour", "shared": 0.5}')
    settings = config(image=str(tmp_path), bank=str(tmp_path / "bank") if bank else "")
    teachers, params = load_teachers(settings, world_train, mesh)
    mix = np.full((3, 3), 0.5) + np.eye(3)
    images = np.stack([world_train.images.read(n, Pixels(16))[0] for n in range(IMAGE_COUNT)])
    expected = (images.mean((1, 2)) - 127) @ mix
    if bank:
        np.testing.assert_allclose(np.asarray(params["image"])[:IMAGE_COUNT], expected, rtol=1e-4, atol=1e-3)
    else:
        assert teachers.image.image == Pixels(16)
        features = teachers.image.apply(params["image"], images)
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-3)


def test_a_constant_teacher_is_refused_live_and_before_its_bank_is_filled(
    tmp_path, world_train, mesh, monkeypatch
):
    def load_nothing(folder):
        return Teacher(
            folder.name, lambda _, pixels: jnp.ones((len(pixels), 4)), "pixels", image=Pixels(8)
        ), {}

    monkeypatch.setitem(IMAGE_TEACHERS, "nothing", load_nothing)
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    for bank in ("", str(tmp_path / "bank")):
        with pytest.raises(
            InputError, match=rf"^{tmp_path}: this teacher gives 8 different samples features of one"
        ):
            load_teachers(config(image=str(tmp_path), bank=bank), world_train, mesh)


def test_features_of_one_direction_are_refused(tmp_path, world_train, mesh):
    ids = world_train.table.image_ids
    lengths = np.random.default_rng(0).uniform(1, 2, (len(ids), 1)).astype(np.float32)
    write_features(tmp_path / "x.npz", ids, lengths * np.arange(1, 9, dtype=np.float32))
    with pytest.raises(InputError, match=r"x\.npz: the features of all 21 samples have one direction"):
        load_teachers(config(image=str(tmp_path / "x.npz")), world_train, mesh)


def test_the_fingerprint_covers_pickled_weights_where_they_are_read(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"one")
    one = teacher_fingerprint(tmp_path, ["a"])
    (tmp_path / "pytorch_model.bin").write_bytes(b"two")
    assert teacher_fingerprint(tmp_path, ["a"])["teacher_files"] != one["teacher_files"]


def test_the_banks_that_are_not_whole_are_known_before_anything_is_computed(tmp_path, world_train):
    settings = config(bank=str(tmp_path))
    assert banks_to_compute(settings, world_train) == [tmp_path / "image", tmp_path / "text"]
    settings.teacher.image = "features.npz"
    assert banks_to_compute(settings, world_train) == [tmp_path / "text"]
    settings.teacher.control = "uniform"
    assert banks_to_compute(settings, world_train) == []
    settings.teacher.control = "none"
    of_another = teacher_fingerprint(TEACHERS / "image", ["a"])
    (tmp_path / "text").mkdir()
    Record(of_another, (1, 8), 0).write(tmp_path / "text")
    with pytest.raises(
        InputError, match=r"text/bank\.json: the bank was computed with other teacher files, samples"
    ):
        banks_to_compute(settings, world_train)


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

"""Prepared folders: the same batches as from the images, after kills and damage too."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import flags
from PIL import Image

from cusa_jax.data import records, sources
from cusa_jax.data.images import load_image
from cusa_jax.data.pipeline import image_batches, train_batches
from cusa_jax.data.prepared import prepare
from cusa_jax.data.splits import load_split
from cusa_jax.data.tokenize import TOKENIZERS
from cusa_jax.errors import InputError
from cusa_jax.files import draft_of
from cusa_jax.inputs import Inputs, Pixels, Regions, Text

ROOT = Path(__file__).parents[2]
IMAGES, PER_IMAGE, PER_SHARD = 10, 3, 4
SIZE = Pixels(16)
TEXT = Text(77, 49408)
INPUTS = Inputs(SIZE, TEXT)


@pytest.fixture
def source(tmp_path):
    """Three splits of ten oblong images and thirty captions, in an order that mixes the images."""
    folder = tmp_path / "source"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        rows = []
        for image in range(IMAGES):
            pixels = draw.integers(0, 256, (20 + image, 31, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{split}{image}.jpg")
        for caption in draw.permutation(IMAGES * PER_IMAGE).tolist():
            image = caption % IMAGES
            text = f"Number {caption}: " + "very " * (caption % 7) + "noisy, é!"
            row = {"image_path": f"{split}{image}.jpg", "caption": text, "image_id": f"id {image}"}
            rows.append(row | {"caption_id": 100 + caption})
        (folder / f"{split}.json").write_text(json.dumps(rows))
    np.save(folder / "val_relevance.npy", draw.random((IMAGES * PER_IMAGE, IMAGES)) < 0.3)
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(records, "SHARD_BYTES", PER_SHARD * 3 * SIZE.size**2)


def splits(folder, inputs=INPUTS):
    return {name: load_split(str(folder), name, inputs, image_root="") for name in ("train", "val")}


def prepare_folder(source, folder, inputs=INPUTS, **options):
    prepare(folder, splits(source, inputs), inputs, **options)
    return folder


@pytest.fixture
def prepared(source, tmp_path):
    return prepare_folder(source, tmp_path / "prepared")


def batches(split, count=6, **options):
    iterator = train_batches(split, INPUTS, **{"batch_size": 8, "seed": 3} | options)
    found = [next(iterator) for _ in range(count)]
    iterator.close()
    return found


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_equal(vars(a), vars(b))


def test_a_prepared_split_is_the_split_it_was_made_from(source, prepared):
    for name, original in splits(source).items():
        found = splits(prepared)[name]
        assert found.captions == original.captions
        assert found.table.captions == original.table.captions
        assert found.table.image_ids == original.table.image_ids
        assert found.table.image_paths == original.table.image_paths
        np.testing.assert_array_equal(found.table.caption_image, original.table.caption_image)
        np.testing.assert_array_equal(found.table.caption_ids, original.table.caption_ids)
        np.testing.assert_array_equal(found.tokens, original.tokens)
        assert found.tokens.dtype == np.int32
        assert (found.relevance is None) == (name == "train")
        np.testing.assert_equal(found.relevance, original.relevance)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_bit_equal_and_the_images_are_not_touched(source, prepared, workers):
    flags.FLAGS(["test"], known_only=True)  # the workers read absl's flags
    expected = {name: batches(split) for name, split in splits(source).items()}
    evaluated = list(image_batches(splits(source)["val"].images, SIZE, batch_size=4))
    for image in source.glob("*.jpg"):
        image.unlink()
    found = splits(prepared)
    for name, split in found.items():
        assert_same(batches(split, workers=workers), expected[name])
    again = list(image_batches(found["val"].images, SIZE, batch_size=4, workers=workers))
    np.testing.assert_equal(again, evaluated)
    last = list(image_batches(found["val"].images, SIZE, batch_size=4, first=8))
    np.testing.assert_equal(last, evaluated[2:])


def test_threads_open_the_records_once(prepared, monkeypatch):
    """Two at once would both import tensorflow-datasets, and at times hang."""
    opened, open_records = [], records.open_records

    def slowly(folder, split):
        opened.append(split)
        time.sleep(0.1)
        return open_records(folder, split)

    monkeypatch.setattr(records, "open_records", slowly)
    read = splits(prepared)["val"].images.read
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: read(image, SIZE)[0], range(IMAGES)))
    np.testing.assert_array_equal(found, [read(image, SIZE)[0] for image in range(IMAGES)])
    assert opened == ["val"]


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_teacher_of_another_size_reads_the_original_images(source, prepared, shuffled):
    options = {"teacher_image": Pixels(12), "shuffled": shuffled}
    assert_same(batches(splits(prepared)["train"], **options), batches(splits(source)["train"], **options))


def read_all(folder, split):
    """The records as any program reads them: through tensorflow-datasets alone."""
    return list(tfds.builder_from_directory(folder / "captioned_images" / "1.0.0").as_data_source(split))


def test_any_program_can_read_the_records(source, prepared):
    original = splits(source)["train"]
    found = read_all(prepared, "train")
    assert len(found) == IMAGES
    longest = max(split.tokens.shape[1] for split in splits(source).values())
    for number, record in enumerate(found):
        captions = np.flatnonzero(original.table.caption_image == number)
        assert record["image_id"].decode() == original.table.image_ids[number]
        assert [text.decode() for text in record["captions"]] == [original.captions[n] for n in captions]
        expected = np.zeros((PER_IMAGE, longest), np.int32)
        expected[:, : original.tokens.shape[1]] = original.tokens[captions]
        np.testing.assert_array_equal(record["tokens"], expected)
        np.testing.assert_array_equal(record["pixels"], load_image(original.table.image_paths[number], SIZE))
        assert record["error"] == b""


def test_unreadable_images_stop_preparing_or_stay_unreadable(source, tmp_path):
    (source / "train4.jpg").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"train4\.jpg: not a readable image"):
        prepare_folder(source, tmp_path / "strict")
    folder = prepare_folder(source, tmp_path / "lenient", on_bad_image="skip")
    options = {"on_bad_image": "skip"}
    assert_same(batches(splits(folder)["train"], **options), batches(splits(source)["train"], **options))
    with pytest.raises(InputError, match=r"train4\.jpg: not a readable image"):
        batches(splits(folder)["train"])


def test_killed_and_continued_it_is_the_same_and_finished_files_are_not_made_again(
    source, prepared, tmp_path
):
    """Killed as the sixth file is begun (train has three); one of the finished ones is then damaged."""
    folder = tmp_path / "killed"
    script = f"""
import os, signal
from pathlib import Path
from cusa_jax.data import records, sources
from cusa_jax.data.prepared import prepare
from cusa_jax.data.splits import load_split
from cusa_jax.inputs import Inputs, Pixels, Text
records.SHARD_BYTES = {records.SHARD_BYTES}
opened, seen = sources.open_image, []
def open_image(path, as_shown):
    seen.append(path)
    if len(seen) > 18:
        os.kill(os.getpid(), signal.SIGKILL)
    return opened(path, as_shown)
sources.open_image = open_image
inputs = Inputs(Pixels({SIZE.size}), Text(77, 49408))
splits = {{name: load_split({str(source)!r}, name, inputs, image_root="") for name in ("train", "val")}}
prepare(Path({str(folder)!r}), splits, inputs)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(InputError, match="not prepared to the end"):
        batches(splits(folder)["train"])
    finished = sorted((folder / "staging").glob("*.sha256"))
    assert len(finished) == 5
    damaged = finished[1].with_suffix("")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    os.remove(damaged)  # not in place: it would be one of tensorflow-datasets' links
    damaged.write_bytes(content)
    decoded = []
    with pytest.MonkeyPatch.context() as patch:
        opened = sources.open_image
        patch.setattr(sources, "open_image", lambda path, shown: decoded.append(path) or opened(path))
        prepare_folder(source, folder)
    assert (
        len(decoded) == PER_SHARD + IMAGES % PER_SHARD
    )  # the damaged file and the one that was never finished
    assert not (folder / "staging").exists()
    for split in ("train", "val"):
        ours, theirs = (read_all(place, split) for place in (folder, prepared))
        np.testing.assert_equal(ours, theirs)


def test_a_finished_folder_is_verified(source, prepared):
    prepare_folder(source, prepared)
    file = sorted(prepared.rglob("*train.array_record*"))[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"{file.name} is damaged \(1 of 6 files\)"):
        prepare_folder(source, prepared)
    with pytest.raises(InputError, match="of split 'train' is damaged"):
        batches(splits(prepared)["train"])


def test_resolutions_contexts_and_captions_are_not_mixed(source, prepared):
    other = Inputs(Pixels(8), TEXT)
    with pytest.raises(InputError, match=r"was prepared with another image size \(16, not 8\)"):
        prepare_folder(source, prepared, other)
    with pytest.raises(InputError, match=r"prepared with image size 16, but the model has 8"):
        splits(prepared, other)
    (prepared / "val.json").write_text((prepared / "val.json").read_text().replace("noisy", "quiet"))
    with pytest.raises(InputError, match=r"val\.json: changed since it was prepared"):
        splits(prepared)
    (source / "val.json").write_text((source / "val.json").read_text().replace("noisy", "quiet"))
    with pytest.raises(InputError, match="was prepared with other captions"):
        prepare_folder(source, prepared)
    with pytest.raises(InputError, match="exists and is not a prepared folder"):
        prepare_folder(source, source)


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        (Inputs(Pixels(16, resize="squash"), TEXT), "image resize crop, but the model has squash"),
        (
            Inputs(Pixels(16, resampling="bilinear"), TEXT),
            "image resampling bicubic, but the model has bilinear",
        ),
        (Inputs(SIZE, Text(32, 49408)), "text length 77, but the model has 32"),
        (Inputs(SIZE, Text(77, 49408, pad_id=1)), "text pad id 0, but the model has 1"),
        (Inputs(SIZE, Text(77, 64000)), "text vocab size 49408, but the model has 64000"),
        (
            Inputs(SIZE, Text(77, 49408, "TOKENIZER")),
            "text tokenizer clip, but the model has tokenizer.json [0-9a-f]+",
        ),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_other_inputs_are_refused_by_the_field_that_differs(prepared, inputs, field, version):
    as_first_version(prepared, version)
    tokenizer = prepared / "tokenizer.json"
    tokenizer.write_text("{}")
    if inputs.text.tokenizer == "TOKENIZER":
        inputs = dataclasses.replace(inputs, text=dataclasses.replace(inputs.text, tokenizer=str(tokenizer)))
    with pytest.raises(InputError, match=rf"was prepared with {field}; prepare another folder for it"):
        splits(prepared, inputs)
    with pytest.raises(InputError, match=r"was prepared with another (image|text) "):
        prepare(prepared, splits(prepared), inputs)


def as_first_version(folder, version):
    """What prepared.json said when there was nothing but CLIP's pixels and tokens."""
    if version == 1:
        captions = json.loads((folder / "prepared.json").read_text())["captions"]
        manifest = {"format": 1, "image_size": 16, "context_length": 77, "captions": captions}
        (folder / "prepared.json").write_text(json.dumps(manifest))


def test_folders_of_the_first_version_are_clip_s(source, prepared):
    as_first_version(prepared, 1)
    assert_same(batches(splits(prepared)["train"]), batches(splits(source)["train"]))
    prepare_folder(source, prepared)
    other_mean = Inputs(Pixels(16, mean=(0.5, 0.5, 0.5)), TEXT)
    assert splits(prepared, other_mean)["val"].images.pixels == SIZE
    with pytest.raises(InputError, match="holds pixels, and the model takes features of regions"):
        splits(prepared, Inputs(Regions(2, 3), TEXT))


def test_pictures_are_the_originals_while_they_are_there(source, prepared):
    images = splits(prepared)["val"].images
    assert sorted(images.names) == sorted(str(source / f"val{n}.jpg") for n in range(IMAGES))
    assert len(images) == IMAGES
    number = images.names.index(str(source / "val3.jpg"))
    assert images.picture(number).size == (31, 23)
    (source / "val3.jpg").unlink()
    np.testing.assert_array_equal(np.asarray(images.picture(number)), images.read(number, SIZE)[0])
    with pytest.raises(InputError, match=r"val3\.jpg: image not found"):
        images.read(number, Pixels(8))


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (100_000, np.int32)])
def test_ids_of_any_vocabulary_come_back(source, tmp_path, monkeypatch, vocab_size, dtype):
    """Every caption a token of its own, up to the last id there is."""

    def numbered(text):
        def tokenize(texts):
            numbers = [text.vocab_size - 1 - int(re.sub(r"\D", "", caption)) for caption in texts]
            return np.array([[number, 7, *[0] * (text.length - 2)] for number in numbers], np.int32), 0

        return tokenize

    monkeypatch.setitem(TOKENIZERS, "numbered", numbered)
    inputs = Inputs(SIZE, Text(77, vocab_size, tokenizer="numbered"))
    folder = prepare_folder(source, tmp_path / "prepared", inputs)
    prepared = splits(folder, inputs)
    for name, split in splits(source, inputs).items():
        found = prepared[name]
        assert found.tokens.max() == vocab_size - 1
        np.testing.assert_array_equal(found.tokens, split.tokens)
        assert found.tokens.dtype == np.int32
        stored = np.load(folder / f"{name}_tokens.npy")
        assert stored.dtype == dtype
        (record, *_) = read_all(folder, name)
        np.testing.assert_array_equal(record["tokens"], split.tokens[split.table.caption_image == 0])
        np.save(folder / f"{name}_tokens.npy", stored.astype(np.uint16 if dtype == np.int32 else np.int32))
    with pytest.raises(
        InputError, match=rf"train_tokens\.npy: u?int\d+\[30, 16\], but .* {np.dtype(dtype)} ids"
    ):
        splits(folder, inputs)


def test_nothing_is_left_in_the_temporary_directory(source, tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    batches(splits(prepare_folder(source, tmp_path / "prepared"))["train"])
    assert list(place.iterdir()) == []


def test_damaged_tokens_and_manifest_are_named(prepared):
    tokens = prepared / "train_tokens.npy"
    sound = tokens.read_bytes()
    np.save(tokens, np.zeros((3, 4), np.uint16))
    with pytest.raises(InputError, match=r"train_tokens\.npy: uint16\[3, 4\], but there are 30 captions"):
        splits(prepared)
    tokens.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"train_tokens\.npy: not a readable array"):
        splits(prepared)
    tokens.write_bytes(sound)
    manifest = json.loads((prepared / "prepared.json").read_text())
    for broken in (
        {},
        [],
        manifest | {"captions": []},
        manifest | {"image": 16},
        manifest | {"image": {"size": 0}},
        manifest | {"format": 3},
    ):
        (prepared / "prepared.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"prepared\.json: not a readable record") as raised:
            splits(prepared)
        assert "\n" not in str(raised.value)
    manifest["captions"].pop("val")
    (prepared / "prepared.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="was prepared without a split 'val'; it has train"):
        splits(prepared)


def test_tensorflow_is_never_imported(prepared, tmp_path):
    """Even where it is installed."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('tensorflow was imported')")
    script = f"""
from pathlib import Path
import cusa_jax.experiment
from cusa_jax.data import records
print(records.open_records(Path({str(prepared)!r}), "val")(3)["pixels"].shape)
"""
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{SIZE.shape}\n", done.stderr


def test_what_was_killed_before_its_manifest_was_whole_is_begun_again(source, tmp_path):
    folder = tmp_path / "prepared"
    folder.mkdir()
    draft_of(folder / "prepared.json").write_text("{")
    prepare_folder(source, folder)
    assert [len(split.captions) for split in splits(folder).values()] == [
        len(split.captions) for split in splits(source).values()
    ]

"""Batches: order, sharding, resumption, workers, controls, unreadable images."""

import dataclasses
import hashlib
import json
import logging
import multiprocessing

import numpy as np
import pytest
from absl import flags
from PIL import Image

from cusa_jax.data.captions import read_captions
from cusa_jax.data.images import load_image
from cusa_jax.data.order import batch_rows, derangement
from cusa_jax.data.pipeline import image_batches, steps_per_epoch, train_batches
from cusa_jax.data.prefetch import way_out
from cusa_jax.data.sources import ImageFiles
from cusa_jax.data.splits import Split, load_split
from cusa_jax.errors import InputError, UnreadableImage
from cusa_jax.inputs import Inputs, Pixels, Text

IMAGES, PER_IMAGE = 11, 3
SIZE = Pixels(8)
INPUTS = Inputs(SIZE, Text(77, 49408))
CAPTIONS = IMAGES * PER_IMAGE


@pytest.fixture
def dataset(tmp_path):
    """11 images of noise and 33 captions: token k of caption n is n + 1, of length 3 + n."""
    rows = []
    for image in range(IMAGES):
        pixels = np.random.default_rng(image).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{image}.png")
        rows += [
            {"image_path": f"{image}.png", "caption": f"{image} {k}", "image_id": image}
            for k in range(PER_IMAGE)
        ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    tokens = np.zeros((CAPTIONS, 77), np.int32)
    for caption in range(CAPTIONS):
        tokens[caption, : 3 + caption] = caption + 1
    return split_of(read_captions(tmp_path, "train"), tokens)


def split_of(table, tokens):
    return Split(table, table.captions, tokens, None, ImageFiles(table.image_paths))


def batches(dataset, count, inputs=INPUTS, **options):
    iterator = train_batches(dataset, inputs, **{"batch_size": 8, "seed": 5} | options)
    result = [next(iterator) for _ in range(count)]
    iterator.close()
    return result


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_equal(vars(a), vars(b))


def teacher_text(lengths):
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int32)
    ids = np.where(mask, np.arange(len(lengths))[:, None], 1).astype(np.int32)  # padded with 1, as MPNet does
    return {"input_ids": ids, "attention_mask": mask}


def test_a_row_is_a_caption_with_its_image(dataset):
    table, tokens = dataset.table, dataset.tokens
    (batch,) = batches(dataset, 1, cut_text=False)
    for row, caption in enumerate(batch.caption_index):
        image = table.caption_image[caption]
        assert batch.image_index[row] == image == caption // PER_IMAGE
        np.testing.assert_array_equal(batch.image[row], load_image(table.image_paths[image], SIZE))
        np.testing.assert_array_equal(batch.tokens[row], tokens[caption])
    np.testing.assert_array_equal(batch.teacher_index_image, batch.image_index)
    np.testing.assert_array_equal(batch.teacher_index_text, batch.caption_index)
    assert batch.teacher_image is None
    assert batch.teacher_text is None
    assert batch.replaced is None


# Of six batches each, by the code as it was before sources and inputs: without teachers; with both; this process being
# the second of two, with teachers that are shuffled and captions that are not cut.
FIRST_BATCHES = (
    "b7befc2756cde42f65772ede10441783ef6d14db0f2d9348447154db5e7cabc2",
    "8d1bddd4fdcf4bb064ad1b898a6595d543980d0f74745614a2bbf9fecdb5e352",
    "7888c2abeb405260d07df073dcff325b6755935e448772efb687fc8978e55888",
)


def test_batches_are_those_of_every_version_before(tmp_path):
    """From files to arrays: order, pixels, tokens, widths, teachers."""
    rows = []
    for image in range(IMAGES):
        noise = np.random.default_rng(image).integers(0, 256, (40 + image, 55, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{image}.png")
        for k in range(PER_IMAGE):
            caption = f"Photo no. {image}: " + "very " * (7 * k) + "noisy, é!"
            rows.append({"image_path": f"{image}.png", "caption": caption, "image_id": image})
    (tmp_path / "train.json").write_text(json.dumps(rows))
    inputs = Inputs(Pixels(32), INPUTS.text)
    split = load_split(str(tmp_path), "train", inputs, image_root="")
    mask = (np.arange(30) < (np.arange(CAPTIONS) % 27 + 3)[:, None]).astype(np.int32)
    text = {
        "input_ids": np.where(mask, np.arange(CAPTIONS)[:, None] + 2, 1).astype(np.int32),
        "attention_mask": mask,
    }
    teachers = {"teacher_image": Pixels(20), "teacher_text": text}
    second = {"shuffled": True, "cut_text": False, "process_index": 1, "process_count": 2}
    for options, expected in zip(({}, teachers, teachers | second), FIRST_BATCHES, strict=True):
        assert digest(batches(split, 6, inputs, **options)) == expected


def digest(drawn):
    total = hashlib.sha256()
    for batch in drawn:
        for name, value in vars(batch).items():
            for key, array in sorted(value.items()) if isinstance(value, dict) else [("", value)]:
                if array is not None:
                    total.update(f"{name}{key} {array.dtype} {array.shape}".encode())
                    total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def test_epochs_are_different_permutations_without_their_remainder(dataset):
    per_epoch = steps_per_epoch(dataset, 8)
    assert per_epoch == CAPTIONS // 8 == 4
    captions = [batch.caption_index for batch in batches(dataset, 3 * per_epoch)]
    epochs = [np.concatenate(captions[i : i + per_epoch]) for i in range(0, 3 * per_epoch, per_epoch)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 32
        assert set(epoch.tolist()) < set(range(CAPTIONS))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    # The remainder differs from epoch to epoch, so no caption is left out for good.
    assert len({(set(range(CAPTIONS)) - set(epoch.tolist())).pop() for epoch in epochs}) > 1


def test_order_depends_on_seed_and_step_alone():
    first = batch_rows(7, rows=100, batch_size=10, seed=1)
    batch_rows(0, rows=100, batch_size=10, seed=3)
    np.testing.assert_array_equal(first, batch_rows(7, rows=100, batch_size=10, seed=1))
    assert not np.array_equal(first, batch_rows(7, rows=100, batch_size=10, seed=2))
    epoch = np.concatenate([batch_rows(step, rows=100, batch_size=10, seed=1) for step in range(10, 20)])
    np.testing.assert_array_equal(np.sort(epoch), np.arange(100))


def test_worker_processes_change_nothing_and_a_run_resumes_with_another_number(dataset):
    flags.FLAGS(["test"], known_only=True)  # the workers read absl's flags
    expected = batches(dataset, 7)
    iterator = train_batches(dataset, INPUTS, batch_size=8, seed=5, workers=2)
    assert_same([next(iterator) for _ in range(3)], expected[:3])
    assert len(multiprocessing.active_children()) == 2
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    for workers in (0, 2):
        resumed = train_batches(dataset, INPUTS, batch_size=8, seed=5, workers=workers)
        next(resumed)  # a state may be set on a used iterator
        resumed.set_state(state)
        assert_same([next(resumed) for _ in range(4)], expected[3:])
        assert resumed.get_state() == {"step": 7}
        resumed.close()


def test_processes_share_out_the_global_batch(dataset):
    whole = batches(dataset, 4, teacher_text=teacher_text(range(1, CAPTIONS + 1)))
    parts = [
        batches(
            dataset,
            4,
            teacher_text=teacher_text(range(1, CAPTIONS + 1)),
            process_index=index,
            process_count=2,
        )
        for index in range(2)
    ]
    for step, batch in enumerate(whole):
        first, second = parts[0][step], parts[1][step]
        for field in ("image", "tokens", "image_index", "caption_index", "teacher_index_text"):
            both = np.concatenate([getattr(first, field), getattr(second, field)])
            np.testing.assert_array_equal(both, getattr(batch, field))
        for key, value in batch.teacher_text.items():
            np.testing.assert_array_equal(
                np.concatenate([first.teacher_text[key], second.teacher_text[key]]), value
            )


def test_texts_are_cut_to_the_bucket_of_the_longest_in_the_global_batch(dataset):
    lengths = [2 * n + 1 for n in range(CAPTIONS)]
    options = {"teacher_text": teacher_text(lengths), "process_count": 8}
    widths = set()
    for step, batch in enumerate(batches(dataset, 8, **options)):  # one row of each global batch of eight
        rows = batch_rows(step, rows=CAPTIONS, batch_size=8, seed=5)
        longest = max(
            3 + rows.max(), 2 * rows.max() + 1
        )  # the student's and the teacher's: one width for both
        width = batch.tokens.shape[1]
        assert width == min(b for b in (16, 24, 32, 48, 64, 77) if b >= longest)
        # The table of teacher tokens is 65 wide, so the largest bucket is not filled.
        assert batch.teacher_text["input_ids"].shape[1] == min(65, width)
        widths.add(width)
    assert len(widths) > 1
    (uncut,) = batches(dataset, 1, **options, cut_text=False)
    assert uncut.tokens.shape[1] == 77
    assert uncut.teacher_text["attention_mask"].shape[1] == 65


def test_texts_that_may_not_be_cut_keep_their_length(dataset):
    """The teacher's still may: its width is then that of its own longest text."""
    inputs = Inputs(SIZE, Text(77, 49408, may_cut=False))
    lengths = [n % 30 + 1 for n in range(CAPTIONS)]
    for step, batch in enumerate(batches(dataset, 4, inputs, teacher_text=teacher_text(lengths))):
        rows = batch_rows(step, rows=CAPTIONS, batch_size=8, seed=5)
        assert batch.tokens.shape[1] == 77
        longest = max(lengths[row] for row in rows)
        assert batch.teacher_text["input_ids"].shape[1] == min(
            30, next(b for b in (16, 24, 32) if b >= longest)
        )


def test_padding_is_what_the_model_calls_padding(dataset):
    padded = dataclasses.replace(dataset, tokens=np.where(dataset.tokens == 0, 60000, dataset.tokens))
    inputs = Inputs(SIZE, Text(77, 70000, pad_id=60000))
    for ours, theirs in zip(batches(padded, 4, inputs), batches(dataset, 4), strict=True):
        np.testing.assert_array_equal(ours.tokens, np.where(theirs.tokens == 0, 60000, theirs.tokens))


def test_image_teacher_gets_pixels_of_its_own_only_where_they_differ(dataset):
    table = dataset.table
    (same,) = batches(dataset, 1, teacher_image=SIZE)
    assert same.teacher_image is None
    (normalised,) = batches(dataset, 1, teacher_image=Pixels(8, mean=(0.5, 0.5, 0.5)))
    assert normalised.teacher_image is None
    (squashed,) = batches(dataset, 1, teacher_image=Pixels(8, resize="squash"))
    assert not np.array_equal(squashed.teacher_image, squashed.image)
    (other,) = batches(dataset, 1, teacher_image=Pixels(6))
    expected = [load_image(table.image_paths[image], Pixels(6)) for image in other.image_index]
    np.testing.assert_array_equal(other.teacher_image, expected)


def test_shuffled_teachers_see_the_same_other_sample_all_run_long(dataset):
    table = dataset.table
    text = teacher_text([4] * CAPTIONS)
    shuffled = batches(dataset, 12, shuffled=True, teacher_image=SIZE, teacher_text=text)
    image_partner, caption_partner = {}, {}
    for batch in shuffled:
        expected = [load_image(table.image_paths[image], SIZE) for image in batch.teacher_index_image]
        np.testing.assert_array_equal(batch.teacher_image, expected)
        np.testing.assert_array_equal(batch.teacher_text["input_ids"][:, 0], batch.teacher_index_text)
        for image, partner in zip(batch.image_index, batch.teacher_index_image, strict=True):
            assert image_partner.setdefault(image, partner) == partner != image
        for caption, partner in zip(batch.caption_index, batch.teacher_index_text, strict=True):
            assert caption_partner.setdefault(caption, partner) == partner != caption
    assert len(set(image_partner.values())) == IMAGES
    assert len(set(caption_partner.values())) == CAPTIONS
    # Student rows are untouched.
    assert_same(
        [batch.replace(teacher_image=None, teacher_text=None) for batch in shuffled[:1]],
        [
            batch.replace(
                teacher_index_image=shuffled[0].teacher_index_image,
                teacher_index_text=shuffled[0].teacher_index_text,
            )
            for batch in batches(dataset, 1)
        ],
    )


def test_shuffled_text_counts_by_its_own_length(dataset):
    lengths = [2 * n + 1 for n in range(CAPTIONS)]
    text = teacher_text(lengths)
    for batch in batches(dataset, 8, batch_size=2, shuffled=True, teacher_text=text):
        longest = max(
            *(lengths[caption] for caption in batch.teacher_index_text), 3 + batch.caption_index.max()
        )
        width = min(65, min(b for b in (16, 24, 32, 48, 64, 77) if b >= longest))
        assert batch.teacher_text["input_ids"].shape[1] == width


def test_images_and_captions_are_shuffled_independently(tmp_path):
    """Were they not, one caption per image would leave the teachers' pairs whole."""
    rows = [{"image_path": f"{n}.png", "caption": "a", "image_id": n} for n in range(40)]
    for n in range(40):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{n}.png")
    (tmp_path / "train.json").write_text(json.dumps(rows))
    split = split_of(read_captions(tmp_path, "train"), np.ones((40, 77), np.int32))
    (batch,) = batches(split, 1, batch_size=40, shuffled=True)
    assert not np.array_equal(batch.teacher_index_image, batch.teacher_index_text)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_derangement_moves_everything(count):
    partner = derangement(count, (0, 1))
    np.testing.assert_array_equal(np.sort(partner), np.arange(count))
    assert (partner != np.arange(count)).all()


def test_unreadable_image_is_an_error_that_names_it(dataset):
    table = dataset.table
    table.image_paths[4].write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"4\.png: not a readable image"):
        batches(dataset, 4)


def test_unreadable_image_stops_a_worker_process_with_the_same_error(dataset):
    flags.FLAGS(["test"], known_only=True)
    table = dataset.table
    table.image_paths[4].unlink()
    with pytest.raises(InputError, match=r"4\.png: image not found"):
        batches(dataset, 4, workers=1)


def test_skip_takes_the_next_caption_whose_image_is_readable(dataset, caplog):
    table, tokens = dataset.table, dataset.tokens
    for image in (4, 5, 10):
        table.image_paths[image].write_bytes(b"not an image")
    with caplog.at_level(logging.WARNING):
        skipping = batches(dataset, 8, on_bad_image="skip", cut_text=False)
    replacement = {**dict.fromkeys(range(12, 18), 18), **dict.fromkeys(range(30, 33), 0)}
    for step, batch in enumerate(skipping):
        planned = batch_rows(step, rows=CAPTIONS, batch_size=8, seed=5)
        expected = [replacement.get(row, row) for row in planned.tolist()]
        np.testing.assert_array_equal(batch.caption_index, expected)
        np.testing.assert_array_equal(batch.tokens, tokens[expected])
        np.testing.assert_array_equal(batch.image_index, table.caption_image[expected])
        np.testing.assert_array_equal(batch.replaced, [row in replacement for row in planned.tolist()])
    assert any(batch.replaced.any() for batch in skipping)
    messages = [record.getMessage() for record in caplog.records]
    for image in (4, 5, 10):
        assert sum(f"{image}.png: not a readable image" in message for message in messages) == 1


@pytest.mark.parametrize("long_text", ["student", "teacher"])
def test_replacement_fits_the_width_that_all_processes_agreed_on(dataset, long_text):
    table, tokens = dataset.table, dataset.tokens
    table.image_paths[4].write_bytes(b"not an image")
    lengths = [5] * CAPTIONS
    # The caption after image 4's is too long for any batch without it.
    if long_text == "student":
        tokens[15, :] = 7
    else:
        lengths[15] = 70
    options = {"teacher_text": teacher_text(lengths), "on_bad_image": "skip"}
    seen = 0
    for step, batch in enumerate(batches(dataset, 40, **options)):
        planned = batch_rows(step, rows=CAPTIONS, batch_size=8, seed=5)
        if batch.replaced.any() and 15 not in planned:
            seen += 1
            assert 15 not in batch.caption_index
            assert (batch.tokens if long_text == "student" else batch.teacher_text["input_ids"]).shape[1] < 70
    assert seen


def test_skip_gives_up_when_no_image_is_readable(dataset):
    table = dataset.table
    for path in table.image_paths:
        path.unlink()
    with pytest.raises(InputError, match="no caption left whose image can be read"):
        batches(dataset, 1, on_bad_image="skip")


def test_batch_size_must_fit(dataset):
    with pytest.raises(InputError, match="exceeds the 33 captions"):
        batches(dataset, 1, batch_size=34)
    with pytest.raises(InputError, match="multiple of the 3 processes"):
        batches(dataset, 1, process_count=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_keeps_the_remainder(dataset, workers):
    flags.FLAGS(["test"], known_only=True)
    table = dataset.table
    found = list(image_batches(dataset.images, SIZE, batch_size=4, workers=workers))
    assert [numbers.tolist() for numbers, _ in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    for numbers, pixels in found:
        padded = [*numbers, *numbers][:4]
        np.testing.assert_array_equal(
            pixels, [load_image(table.image_paths[number], SIZE) for number in padded]
        )


def test_evaluation_leaves_out_unreadable_images_and_says_so(dataset, caplog):
    table = dataset.table
    for image in (1, 8, 9, 10):
        table.image_paths[image].write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"1\.png"):
        list(image_batches(dataset.images, SIZE, batch_size=4))
    with caplog.at_level(logging.WARNING):
        found = list(image_batches(dataset.images, SIZE, batch_size=4, on_bad_image="skip"))
    assert [numbers.tolist() for numbers, _ in found] == [[0, 2, 3], [4, 5, 6, 7]]
    assert all(pixels.shape == (4, 8, 8, 3) for _, pixels in found)
    assert "4 unreadable images left out" in caplog.text
    for path in table.image_paths:
        path.unlink(missing_ok=True)
    with pytest.raises(InputError, match="all 11 images are unreadable"):
        list(image_batches(dataset.images, SIZE, batch_size=4, on_bad_image="skip"))


def test_an_unreadable_image_says_how_to_go_on_without():
    with (
        pytest.raises(InputError, match=r"7\.jpg: not a readable image; .*data\.on_bad_image=skip"),
        way_out(),
    ):
        raise UnreadableImage("7.jpg: not a readable image")
    with pytest.raises(InputError, match=r"^broken$"), way_out():
        raise InputError("broken")

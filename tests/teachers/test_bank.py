"""Banks on disk: continued after a kill or a full disk, refused when they are another teacher's or damaged."""

import itertools
import json
import multiprocessing
import os
import resource
import zlib

import numpy as np
import pytest

from cusa_jax import lock
from cusa_jax.errors import InputError
from cusa_jax.teachers import bank

SAMPLES, WIDTH, BATCH = 21, 24, 8
FEATURES = np.random.default_rng(0).normal(size=(SAMPLES, WIDTH)).astype(np.float32)
ORDER = np.random.default_rng(1).permutation(SAMPLES)


def compute(done, batch=BATCH):
    for start in range(done, SAMPLES, batch):
        numbers = ORDER[start : start + batch]
        yield numbers, FEATURES[numbers]


def make(folder, compute=compute, of="test"):
    """All rows of the bank, in slices that do not begin at 0 only."""
    features = bank.bank_features(folder, {"of_what": of}, compute, samples=SAMPLES)
    assert features.shape == (SAMPLES, WIDTH)
    return np.concatenate([features[:9], features[9:SAMPLES]])


def never(done):
    raise AssertionError("computed again")


def test_every_row_is_its_own_sample_s_feature_and_computed_once(tmp_path):
    for function in (compute, never):
        np.testing.assert_array_equal(make(tmp_path / "bank", function), FEATURES)
    np.testing.assert_array_equal(
        np.fromfile(tmp_path / "bank" / "features.f32", np.float32), FEATURES.ravel()
    )


def killed(done):
    yield from itertools.islice(compute(done), 2)
    raise KeyboardInterrupt


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A bank whose computation was killed after two batches."""
    monkeypatch.setattr(bank, "_BATCHES_BETWEEN_SAVES", 1)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "bank", killed)
    return tmp_path / "bank"


@pytest.mark.parametrize("batch", [BATCH, 5])
def test_killed_and_continued_computes_only_the_rest(half, batch):
    """In batches of any size: other devices may continue."""
    asked = []

    def continued(done):
        asked.append(done)
        return compute(done, batch)

    np.testing.assert_array_equal(make(half, continued), FEATURES)
    assert asked == [2 * BATCH]


def test_samples_that_were_never_computed_are_no_numbers(tmp_path):
    read = make(tmp_path / "bank", lambda done: itertools.islice(compute(done), 2))
    missing = np.isin(np.arange(SAMPLES), ORDER[2 * BATCH :])
    assert np.isnan(read[missing]).all()
    np.testing.assert_array_equal(read[~missing], FEATURES[~missing])


def test_a_half_bank_of_which_no_more_can_be_computed_is_complete(half):
    make(half, lambda done: iter(()))
    make(half, never)


def test_another_fingerprint_is_refused(tmp_path):
    make(tmp_path / "bank")
    with pytest.raises(InputError, match=r"bank\.json: the bank was computed with other of what;"):
        make(tmp_path / "bank", never, of="another")


# --- damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["features.f32", "checksums.u32", "bank.json"])
def test_any_flipped_bit_is_noticed(tmp_path, name):
    """Of the file with one bit flipped, either all features come out as they were, or none do."""
    make(tmp_path / "bank")
    path = tmp_path / "bank" / name
    whole, messages = path.read_bytes(), []
    draw = np.random.default_rng(2)
    for position, bit in zip(draw.integers(0, len(whole), 150), draw.integers(0, 8, 150), strict=True):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            features = make(tmp_path / "bank", never)
        except InputError as error:
            messages.append(str(error))
        else:
            np.testing.assert_array_equal(features, FEATURES)
    # In bank.json a flip may hit white space.
    assert len(messages) == 150 if name != "bank.json" else len(messages) > 100
    assert all(str(tmp_path / "bank") in message and "\n" not in message for message in messages)


@pytest.mark.parametrize("unit", ["words", "rows"])
def test_swapped_words_and_rows_are_noticed(tmp_path, unit):
    make(tmp_path / "bank")
    path = tmp_path / "bank" / "features.f32"
    swapped = FEATURES.copy()
    if unit == "words":
        swapped[3, [5, 6]] = swapped[3, [6, 5]]
    else:
        swapped[[3, 4]] = swapped[[4, 3]]
    path.write_bytes(swapped.tobytes())
    with pytest.raises(InputError, match=r"features\.f32: row 3 is not what was written .*computes it again"):
        make(tmp_path / "bank", never)


def test_a_number_in_place_of_what_was_never_computed_is_noticed(tmp_path):
    make(tmp_path / "bank", lambda done: itertools.islice(compute(done), 2))
    features = np.fromfile(tmp_path / "bank" / "features.f32", np.float32).reshape(SAMPLES, WIDTH)
    features[ORDER[-1], 3] = 0
    features.tofile(tmp_path / "bank" / "features.f32")
    with pytest.raises(InputError, match=f"row {ORDER[-1]} is not what was written"):
        make(tmp_path / "bank", never)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("bank.json", b"", r"bank\.json: not a readable JSON file .*; delete "),
        ("bank.json", b"{}", r"bank\.json: not a readable record of a bank .*; delete "),
        ("bank.json", b"[]", r"bank\.json: must hold a JSON object; delete "),
        (
            "bank.json",
            b'{"shape": [21, ' + b"[" * 100_000,
            r"bank\.json: not a readable JSON file \(nested too deeply.*; delete ",
        ),
        ("features.f32", b"\0" * 40, r"features\.f32: is not float32 \[21, 24\]; delete "),
        ("features.f32", None, r"features\.f32: the bank cannot be read or written \(No such file"),
        ("checksums.u32", b"\0" * 40, r"checksums\.u32: is not uint32 \[21\]; delete "),
    ],
    ids=["empty record", "no record", "list", "deep record", "cut features", "no features", "cut checksums"],
)
@pytest.mark.parametrize("complete", [True, False])
def test_a_damaged_bank_is_named_and_not_continued(half, file, content, told, complete):
    if complete:
        make(half)
    (half / file).unlink() if content is None else (half / file).write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        make(half)
    assert "\n" not in str(caught.value)


def test_a_record_with_a_checksum_but_impossible_numbers_is_refused(tmp_path):
    make(tmp_path / "bank")
    path = tmp_path / "bank" / "bank.json"
    record = json.loads(path.read_text())
    del record["checksum"]
    for shape in (["many", 24], [21], 21, [[21], 24]):
        content = record | {"shape": shape}
        checksum = zlib.crc32(json.dumps(content, sort_keys=True).encode())
        path.write_text(json.dumps(content | {"checksum": checksum}))
        with pytest.raises(InputError, match="not a readable record of a bank"):
            make(tmp_path / "bank")


def test_a_bank_of_an_earlier_version_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "bank").mkdir()
    old = {"fingerprint": {"format": 2, "of_what": "test"}, "shape": [SAMPLES, WIDTH]}
    (tmp_path / "bank" / "bank.json").write_text(json.dumps(old))
    with pytest.raises(
        InputError, match=r"an earlier version, which kept no checksums; delete .*computes it again"
    ):
        make(tmp_path / "bank")


# --- disks and other runs -------------------------------------------------------------------------------------


def test_a_bank_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"bank: cannot be locked \(Not a directory"):
        make(tmp_path / "file" / "bank")


def test_a_disk_without_room_is_one_line_and_nothing_is_left_of_the_try(tmp_path):
    """The limit of a file's size stands for the disk: it too makes a write fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FEATURES.nbytes // 2, before[1]))
    try:
        with pytest.raises(
            InputError, match=r"cannot be read or written \(File too large\); when it can, the same"
        ):
            make(tmp_path / "bank")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "bank").iterdir()] == [lock.LOCK]
    np.testing.assert_array_equal(make(tmp_path / "bank"), FEATURES)


def test_a_disk_that_fills_up_in_the_middle_loses_what_was_not_saved(tmp_path, monkeypatch):
    """A record does not fit any more; the same call continues from the last one that did."""
    monkeypatch.setattr(bank, "_BATCHES_BETWEEN_SAVES", 1)
    flushes, fsync = [], os.fsync

    def full(descriptor):
        flushes.append(descriptor)
        if len(flushes) == 3:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(
            InputError, match=r"\(No space left on device\); when it can, the same command continues"
        ):
            make(tmp_path / "bank")
    asked = []
    read = make(tmp_path / "bank", lambda done: asked.append(done) or compute(done))
    np.testing.assert_array_equal(read, FEATURES)
    assert asked == [BATCH]


def hold(path, held, release):
    with lock.held(path, "the bank"):
        held.set()
        release.wait()


def test_two_runs_do_not_compute_one_bank_and_a_killed_one_leaves_no_lock(half):
    """A complete bank is read whoever holds the lock."""
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(half / lock.LOCK, held, release), daemon=True)
    other.start()
    assert held.wait(60)
    with pytest.raises(
        InputError, match=r"the bank, is in use by process \d+ on .*; wait for it to end, or end it"
    ):
        make(half, never)
    other.kill()
    other.join()
    np.testing.assert_array_equal(make(half), FEATURES)
    with lock.held(half / lock.LOCK, "the bank"):
        make(half, never)

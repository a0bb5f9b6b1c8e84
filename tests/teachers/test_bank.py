"""Banks on disk: continued after a kill, refused when they are another teacher's, named when damaged."""

import itertools
import json

import numpy as np
import pytest

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
    return bank.bank_features(folder, {"of_what": of}, compute, samples=SAMPLES)


def never(done):
    raise AssertionError("computed again")


def test_every_row_is_its_own_sample_s_feature_and_computed_once(tmp_path):
    for function in (compute, never):
        np.testing.assert_array_equal(make(tmp_path / "bank", function), FEATURES)


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
    found = make(tmp_path / "bank", lambda done: itertools.islice(compute(done), 2))
    missing = np.isin(np.arange(SAMPLES), ORDER[2 * BATCH :])
    assert np.isnan(found[missing]).all()
    np.testing.assert_array_equal(found[~missing], FEATURES[~missing])


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("progress", b"", r"progress: not a number; delete "),
        ("features.f32", b"\0" * 40, r"features\.f32: is not float32 \[21, 24\]; delete "),
        ("features.f32", None, r"bank: the bank cannot be read or written \(.*No such file"),
    ],
)
def test_a_half_bank_that_is_damaged_is_not_continued(half, file, content, told):
    (half / file).unlink() if content is None else (half / file).write_bytes(content)
    with pytest.raises(InputError, match=told):
        make(half)


def test_a_bank_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"bank: the bank cannot be read or written"):
        make(tmp_path / "file" / "bank")


def test_another_fingerprint_is_refused(tmp_path):
    make(tmp_path / "bank")
    with pytest.raises(InputError, match=r"bank\.json: the bank was computed with other of what;"):
        make(tmp_path / "bank", never, of="another")


def test_damaged_banks_are_named(tmp_path):
    make(tmp_path / "bank")
    features = tmp_path / "bank" / "features.f32"
    features.write_bytes(features.read_bytes()[:-4])
    with pytest.raises(InputError, match=rf"features\.f32: is not float32 \[{SAMPLES}, {WIDTH}\]"):
        make(tmp_path / "bank")
    for broken in ("{", "[]", json.dumps({"fingerprint": 3, "shape": [1]})):
        (tmp_path / "bank" / "bank.json").write_text(broken)
        with pytest.raises(InputError, match=r"bank\.json: not a readable record of a bank"):
            make(tmp_path / "bank")

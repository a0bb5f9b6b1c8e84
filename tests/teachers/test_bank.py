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


def compute(first):
    for start in range(first * BATCH, SAMPLES, BATCH):
        numbers = ORDER[start : start + BATCH]
        yield numbers, FEATURES[numbers]


def make(folder, compute=compute, of="test"):
    return bank.bank_features(folder, {"of_what": of}, compute, samples=SAMPLES)


def never(first):
    raise AssertionError("computed again")


def test_every_row_is_its_own_sample_s_feature_and_computed_once(tmp_path):
    for function in (compute, never):
        np.testing.assert_array_equal(make(tmp_path / "bank", function), FEATURES)


def test_killed_and_continued_computes_only_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(bank, "_BATCHES_BETWEEN_SAVES", 1)
    firsts = []

    def killed(first):
        yield from itertools.islice(compute(first), 2)
        raise KeyboardInterrupt

    def continued(first):
        firsts.append(first)
        yield from compute(first)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "bank", killed)
    np.testing.assert_array_equal(make(tmp_path / "bank", continued), FEATURES)
    assert firsts == [2]


def test_another_fingerprint_is_refused(tmp_path):
    make(tmp_path / "bank")
    with pytest.raises(InputError, match=r"bank\.json: the bank was computed with other of what;"):
        make(tmp_path / "bank", never, of="another")


def test_damaged_banks_are_named(tmp_path):
    make(tmp_path / "bank")
    features = tmp_path / "bank" / "features.f32"
    features.write_bytes(features.read_bytes()[:-4])
    with pytest.raises(InputError, match=rf"features\.f32: is not \[{SAMPLES}, {WIDTH}\]"):
        make(tmp_path / "bank")
    for broken in ("{", "[]", json.dumps({"fingerprint": 3, "shape": [1]})):
        (tmp_path / "bank" / "bank.json").write_text(broken)
        with pytest.raises(InputError, match=r"bank\.json: not a readable record of a bank"):
            make(tmp_path / "bank")

"""Feature files: both formats, their faults by name, and hostile `.npy` files that must never run."""

import io
import os
import pickle
import tracemalloc
import zipfile

import golden
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.teachers.features import caption_keys, read_features, write_features
from cusa_jax.teachers.pickled import read_pickled_features

IDS = [f"COCO_{n}.jpg" for n in range(5)]


def features(n=5, width=6):
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def write_npy(path, pickled):
    """A `.npy` whose object array is the given pickle."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(pickled)
    return path


def object_pickle(value, protocol=4):
    array = np.empty((), object)
    array[()] = value
    return pickle.dumps(array, protocol)


# --- good files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 6), (6,)])
def test_reference_format(tmp_path, shape):
    table = features()
    np.save(tmp_path / "train_unicom.npy", dict(zip(IDS, table.reshape(5, *shape), strict=True)))
    order = [3, 0, 4, 3]
    read = read_features(tmp_path / "train_unicom.npy", [IDS[n] for n in order])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, table[order])


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_what_numpy_pickles(tmp_path, protocol, dtype):
    shared = np.asfortranarray(features(2, 3).astype(dtype))
    stored = {7: shared, np.int64(8): shared, "nine": features(1, 3).astype(dtype)}
    read = read_pickled_features(write_npy(tmp_path / "x.npy", object_pickle(stored, protocol)))
    assert list(read) == ["7", "8", "nine"]
    for ours, theirs in zip(read.values(), stored.values(), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_own_format(tmp_path, dtype):
    table = features().astype(dtype)
    write_features(tmp_path / "f.npz", IDS, table)
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]
    read = read_features(tmp_path / "f.npz", IDS[::-1])
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, table[::-1])


def test_interrupted_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f.npz"
    write_features(path, IDS, features())

    def fails(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fails)
    with pytest.raises(OSError, match="disk full"):
        write_features(path, IDS, 2 * features())
    np.testing.assert_array_equal(read_features(path, IDS), features())


def test_captions_are_numbered_within_their_image():
    keys = caption_keys(["a", "b"], np.array([0, 1, 0, 0, 1], np.int32))
    assert keys == ["a#0", "b#0", "a#1", "a#2", "b#1"]


# --- faults by name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_missing_ids_are_named_and_counted(tmp_path, suffix):
    path = tmp_path / f"f.{suffix}"
    if suffix == "npy":
        np.save(path, dict(zip(IDS, features(), strict=True)))
    else:
        write_features(path, IDS, features())
    with pytest.raises(InputError, match=r"f\.np.: no feature for 'x', 'y', 'z' and 2 more \(of 6\)"):
        read_features(path, ["x", IDS[0], "y", "z", "v", "w"])


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (np.ones(5, np.float32), r"'COCO_2\.jpg' is float32\[5\], that of 'COCO_0\.jpg' has 6 numbers"),
        (np.ones((2, 3), np.float32), r"'COCO_2\.jpg' is float32\[2, 3\]"),
        (np.ones(6, np.int64), r"'COCO_2\.jpg' holds int64; it must be floating point"),
        (np.full(6, np.nan, np.float32), r"all zero or not finite for 'COCO_2\.jpg'"),
        (np.full(6, np.inf, np.float32), r"all zero or not finite for 'COCO_2\.jpg'"),
        (np.zeros(6, np.float32), r"all zero or not finite for 'COCO_2\.jpg'"),
        (np.full(6, 1e300), r"all zero or not finite for 'COCO_2\.jpg'"),
        (np.full(6, 1e-300), r"all zero or not finite for 'COCO_2\.jpg'"),
        (np.full(6, 1e-42, np.float32), r"all zero or not finite for 'COCO_2\.jpg'"),
        (None, r"the feature of 'COCO_2.jpg' is not an array"),
        ([1.0, 2.0], r"the feature of 'COCO_2.jpg' is not an array"),
    ],
)
def test_bad_feature_is_named(tmp_path, bad, told):
    np.save(tmp_path / "f.npy", dict(zip(IDS, features(), strict=True)) | {IDS[2]: bad})
    with pytest.raises(InputError, match=told):
        read_features(tmp_path / "f.npy", IDS)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"ids": IDS}, "without `ids` and `features`"),
        ({"ids": IDS, "features": features(4)}, r"float32\[4, 6\]"),
        ({"ids": np.arange(5), "features": features()}, r"int64\[5\]"),
        ({"ids": np.array(IDS, object), "features": features()}, "allow_pickle"),
        ({"ids": [*IDS[:4], IDS[0]], "features": features()}, "more than one feature for 'COCO_0.jpg'"),
        ({"ids": IDS, "features": features().astype(complex)}, "holds complex128; it must be floating point"),
        ({"ids": IDS, "features": features() > 0}, "holds bool; it must be floating point"),
        ({"ids": IDS, "features": features().astype("M8[s]")}, r"holds datetime64\[s\]; it must be floating"),
        ({"ids": IDS, "features": np.zeros((5, 6), "f4,i2")}, r"holds \[\('f0', .*; it must be floating"),
        ({"ids": IDS, "features": np.zeros((5, 0), np.float32)}, "all zero or not finite"),
        ({"ids": np.array(5), "features": features()}, r"has int64\[\] and"),
        ({"ids": IDS, "features": np.float32(1)}, r"float32\[\]"),
    ],
)
def test_bad_npz_is_named(tmp_path, arrays, told):
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(InputError, match=told):
        read_features(tmp_path / "f.npz", IDS)


@pytest.mark.parametrize("dtype", [np.longdouble, ">f8", ">f2"])
def test_any_floating_point_is_read(tmp_path, dtype):
    table = features().astype(dtype)
    np.savez(tmp_path / "f.npz", ids=IDS, features=table)
    np.testing.assert_array_equal(read_features(tmp_path / "f.npz", IDS), table)


@pytest.mark.parametrize("member", ["ids", "features"])
def test_a_member_that_is_no_array_is_named(tmp_path, member):
    """numpy gives the bytes of what does not begin as an array."""
    np.savez(tmp_path / "whole.npz", ids=IDS, features=features())
    with (
        zipfile.ZipFile(tmp_path / "whole.npz") as whole,
        zipfile.ZipFile(tmp_path / "f.npz", "w") as damaged,
    ):
        for name in whole.namelist():
            content = whole.read(name)
            damaged.writestr(name, b"\0" + content[1:] if name == f"{member}.npy" else content)
    with pytest.raises(InputError, match=rf"f\.npz: damaged, or without .*{member} is bytes, not an array"):
        read_features(tmp_path / "f.npz", IDS)


def test_features_that_do_not_fit_their_ids_are_not_written(tmp_path):
    for wrong in (features(4), features()[0], features().astype(int)):
        with pytest.raises(InputError, match="must be float16 or float32"):
            write_features(tmp_path / "f.npz", IDS, wrong)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.ones((3, 4)), np.array([{}, {}])])
def test_npy_of_something_else(tmp_path, value):
    np.save(tmp_path / "f.npy", value)
    with pytest.raises(InputError, match="what is needed is a dict"):
        read_features(tmp_path / "f.npy", IDS)


# --- hostile files --------------------------------------------------------------------------------------------


class Reduce:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("place", ["whole", "value", "key"])
def test_no_call_is_ever_made(tmp_path, protocol, place):
    victim = tmp_path / "made"
    attack = Reduce(os.mkdir, str(victim))
    pickled = {
        "whole": lambda: pickle.dumps(attack, protocol),
        "value": lambda: object_pickle({"a": attack}, protocol),
        "key": lambda: object_pickle({attack: features()}, protocol),
    }[place]()
    path = write_npy(tmp_path / "f.npy", pickled)
    with pytest.raises(InputError, match=r"f\.npy"):
        read_features(path, IDS)
    assert not victim.exists()
    pickle.loads(pickled)
    assert victim.exists()  # the attack is a real one


def test_refused_global_is_named(tmp_path):
    path = write_npy(tmp_path / "f.npy", object_pickle({"a": Reduce(eval, "1/0")}))
    with pytest.raises(InputError, match=r"asks for '(builtins|__builtin__)\.eval'.*nothing was run"):
        read_features(path, IDS)


REFUSED = [b"cos\nsystem\n", b"i\x00", b"(cos\nsystem\no.", b"\x82\x01.", b"Pid\n.", b"}\x92."]


@pytest.mark.parametrize("opcode", REFUSED)
def test_other_instructions_are_refused(tmp_path, opcode):
    with pytest.raises(InputError, match=r"f\.npy"):
        read_features(write_npy(tmp_path / "f.npy", b"\x80\x04" + opcode), IDS)


def test_claimed_sizes_allocate_nothing(tmp_path):
    honest = object_pickle({"a": np.ones((1, 7), np.float32)})
    shape = b"K\x01K\x07\x86"  # the tuple (1, 7)
    assert honest.count(shape) == 1
    claims = [
        honest.replace(shape, b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),  # an array of 2^62 numbers
        b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x.",  # BINBYTES8 of a terabyte
        b"\x80\x04N" + b"r\xff\xff\xff\xff.",  # LONG_BINPUT at memo index 2^32 - 1
        b"\x80\x04\x95" + (1 << 62).to_bytes(8, "little") + b"N.",  # FRAME
    ]
    tracemalloc.start()
    for pickled in claims:
        with pytest.raises(InputError):
            read_features(write_npy(tmp_path / "f.npy", pickled), IDS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_damage_is_an_input_error_or_harmless(tmp_path, suffix):
    """Truncations and bit flips everywhere: what is read has the right shape, or an InputError says why not."""
    whole = io.BytesIO()
    if suffix == "npy":
        np.save(whole, dict(zip(IDS, features()[:, None], strict=True)), allow_pickle=True)
    else:
        np.savez(whole, ids=IDS, features=features())
    path, messages = tmp_path / f"f.{suffix}", []
    for content in golden.damaged(whole.getvalue(), truncations=100, flips=500):
        path.write_bytes(content)
        try:
            read = read_features(path, IDS)
        except InputError as error:
            messages.append(str(error))
        else:
            assert read.shape[0] == 5
            assert np.isfinite(read).all()
    assert len(messages) > 150
    assert not any("\n" in message for message in messages)

"""PyTorch's zip files: what torch wrote is read bit by bit, what we write says the same, hostile files do nothing."""

import argparse
import io
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections import OrderedDict

import golden
import ml_dtypes
import numpy as np
import pytest

from cusa_jax.errors import InputError
from cusa_jax.weights import torch_file

FOLDER = golden.FOLDER / "torch"  # written by torch.save and torch.jit.save
SAVED = FOLDER / "saved.pt"


def expected() -> dict[str, np.ndarray]:
    return golden.arrays("torch/expected")


# --- what torch wrote -----------------------------------------------------------------------------------------


def test_every_dtype_and_view_is_read():
    read = torch_file.read(SAVED)["model"]
    assert list(read) == [name for name in expected() if not name.startswith("scripted/")]
    for name, tensor in read.items():
        assert tensor.dtype == (ml_dtypes.bfloat16 if name == "bfloat16" else expected()[name].dtype)
        np.testing.assert_array_equal(tensor.astype(expected()[name].dtype), expected()[name], strict=True)


def test_plain_values_are_read():
    assert torch_file.read(SAVED)["config"] == {
        "lr": 1e-5, "on": True, "none": None, "text": "é", "list": [1, 2**40], "tuple": (1, 2), "numpy": 0.5,
    }  # fmt: skip


def test_a_torchscript_archive_is_its_state_dict():
    module = torch_file.read(FOLDER / "scripted.pt")
    assert isinstance(module, torch_file.Module)
    read = torch_file.flatten(module)
    assert {f"scripted/{name}" for name in read} == {
        name for name in expected() if name.startswith("scripted/")
    }
    for name, tensor in read.items():
        np.testing.assert_array_equal(tensor, expected()[f"scripted/{name}"], strict=True)


# --- what we write --------------------------------------------------------------------------------------------


class Reader(pickle.Unpickler):
    """Python's own unpickler, with stand-ins for torch's functions."""

    def __init__(self, archive: zipfile.ZipFile):
        super().__init__(io.BytesIO(archive.read("archive/data.pkl")))
        self.archive = archive

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.rebuild
        assert (module, name) == ("collections", "OrderedDict") or module == "torch"
        return OrderedDict if name == "OrderedDict" else name

    def persistent_load(self, identifier):
        kind, storage, key, device, size = identifier
        assert (kind, device) == ("storage", "cpu")
        array = np.frombuffer(self.archive.read(f"archive/data/{key}"), torch_file.STORAGES[storage])
        assert array.size == size
        return array

    def rebuild(self, storage, offset, size, stride, requires_grad, hooks):
        assert (offset, requires_grad, hooks) == (0, False, OrderedDict())
        assert not storage.size or stride == np.empty(size, np.int8).strides
        return storage.reshape(size)


def test_python_unpickles_what_was_written(tmp_path):
    tensors = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "scalar": np.float32(0.07),
        "empty": np.zeros((0, 3)),
    }
    tensors |= {dtype.name: np.arange(3).astype(dtype) for dtype in torch_file.STORAGES.values()}
    value = {
        "model": tensors,
        "config": {"a": [1, -(2**70), (2.5, "é\n")], "b": None, "c": True},
        "epoch": -1,
    }
    torch_file.write(tmp_path / "x.pt", value)
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        read = Reader(archive).load()
    ours = torch_file.read(tmp_path / "x.pt")
    assert read.keys() == ours.keys() == value.keys()
    assert read["config"] == ours["config"] == value["config"]
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read["model"][name], tensor)
        np.testing.assert_array_equal(ours["model"][name], np.asarray(tensor), strict=True)


def test_what_has_no_counterpart_is_not_half_written(tmp_path):
    for value in (np.zeros(2, complex), {1, 2}, b"bytes", np.array(["text"])):
        with pytest.raises(InputError, match="cannot be written"):
            torch_file.write(tmp_path / "x.pt", {"a": np.zeros(3), "b": value})
    assert not any(tmp_path.iterdir())


# --- hostile and damaged files --------------------------------------------------------------------------------


def archive(path, program: bytes, compression=zipfile.ZIP_STORED, **members: bytes):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {"data.pkl": program, **members}.items():
            file.writestr(f"archive/{name.replace('__', '/')}", content)
    return path


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_no_call_is_ever_made(tmp_path, protocol):
    victim = tmp_path / "made"
    program = pickle.dumps({"weight": Call(os.mkdir, str(victim))}, protocol)
    with pytest.raises(InputError, match=r"x\.pt"):
        torch_file.read(archive(tmp_path / "x.pt", program))
    assert not victim.exists()
    pickle.loads(program)
    assert victim.exists()  # the attack is a real one


@pytest.mark.parametrize(
    "name", ["posix system", "builtins eval", "torch.nn Linear", "torch._utils _rebuild_sparse_tensor"]
)
def test_another_global_is_refused_by_name(tmp_path, name):
    program = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n)R."
    with pytest.raises(InputError, match=rf"asks for '{name.replace(' ', '.')}'.*nothing was run"):
        torch_file.read(archive(tmp_path / "x.pt", program))


def tensor_program(offset, size, stride, numbers=6) -> bytes:
    def plain(value):
        return pickle.dumps(value, 2)[2:-1]

    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((" + plain("storage") + b"ctorch\nFloatStorage\n" + plain("0")
        + plain("cpu") + plain(numbers) + b"tQ" + plain(offset) + plain(size) + plain(stride) + b"\x89NtR."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)), (1, (6,), (1,)), (0, (2, 3), (4, 1)), (-1, (2,), (1,)), (5, (2,), (-1,)), (0, (-1,), (1,)),
        (0, (2, 3), (1,)), (0, (10**12,), (0,)), (0, (2**40, 2**40), (0, 0)), (2**62, (1,), (1,)),
    ],
)  # fmt: skip
def test_a_tensor_stays_inside_its_storage(tmp_path, offset, size, stride):
    honest = archive(tmp_path / "x.pt", tensor_program(0, (2, 3), (3, 1)), data__0=bytes(24))
    assert torch_file.read(honest).shape == (2, 3)
    path = archive(tmp_path / "x.pt", tensor_program(offset, size, stride), data__0=bytes(24))
    with pytest.raises(InputError, match="holds a tensor"):
        torch_file.read(path)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (2**63,), (0,)), (2**63, (), ()), (0, (1,), (2**63,)), (0, (2**62, 4), (0, 0)), (0, (1.0,), (1,)),
        (0, (True,), (1,)), (0, [2], [1]), (0, "12", "11"), (0, (1,) * 65, (1,) * 65), (6, (1,), (0,)),
        (0.0, (1,), (1,)),
    ],
)  # fmt: skip
def test_sizes_that_no_tensor_has_are_refused(tmp_path, offset, size, stride):
    path = archive(tmp_path / "x.pt", tensor_program(offset, size, stride), data__0=bytes(24))
    with pytest.raises(InputError, match="holds a tensor"):
        torch_file.read(path)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(2, (3,), (0,)), (5, (1, 1), (99, 2**40)), (6, (0, 5), (1, 1)), (3, (), ())],
)
def test_views_within_their_storage_are_what_numpy_makes(tmp_path, offset, size, stride):
    numbers = np.arange(6, dtype=np.float32)
    path = archive(tmp_path / "x.pt", tensor_program(offset, size, stride), data__0=numbers.tobytes())
    strides = [4 * step if length > 1 else 0 for length, step in zip(size, stride, strict=True)]
    truth = np.lib.stride_tricks.as_strided(numbers[offset:], size, strides)
    np.testing.assert_array_equal(torch_file.read(path), truth, strict=True)


def rebuild(storage: bytes, size=(6,), stride=(1,)) -> bytes:
    """The program of a tensor, whatever its storage is made by."""
    plain = b"".join(pickle.dumps(value, 2)[2:-1] for value in (0, size, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + plain + b"\x89NtR"


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"


@pytest.mark.parametrize(
    "storage",
    [
        rebuild(STORAGE, (6,), (0,)),
        b"ctorch\nFloatStorage\n",
        b"C\x18" + bytes(24),
        b"](K\x00K\x01e",
        b"N",
        b"cnumpy.core.multiarray\n_reconstruct\n)R",
    ],
    ids=["tensor", "dtype", "bytes", "list", "none", "array"],
)
def test_a_tensor_is_a_view_of_a_storage_alone(tmp_path, storage):
    honest = archive(tmp_path / "x.pt", b"\x80\x03" + rebuild(STORAGE) + b".", data__0=bytes(24))
    assert torch_file.read(honest).shape == (6,)
    path = archive(tmp_path / "x.pt", b"\x80\x03" + rebuild(storage) + b".", data__0=bytes(24))
    with pytest.raises(InputError, match="not a view of a storage; refused"):
        torch_file.read(path)


@pytest.mark.parametrize(
    "identifier",
    [("storage", "f4", "0", "cpu", 6), ("module", None, "0", "cpu", 6), ("storage", None, 0, "cpu", 6), (), "storage"],
)  # fmt: skip
def test_a_storage_is_named_as_torch_names_it(tmp_path, identifier):
    path = archive(
        tmp_path / "x.pt", b"\x80\x02" + pickle.dumps(identifier, 2)[2:-1] + b"Q.", data__0=bytes(24)
    )
    with pytest.raises(InputError, match=r"as torch.save does not|damaged"):
        torch_file.read(path)


TEXT = b"X" + (200_000).to_bytes(4, "little") + b"a" * 200_000
LIST = b"](" + b"K\x00" * 100_000 + b"e"
KEYS = b"}(" + b"".join(b"M" + n.to_bytes(2, "little") + b"N" for n in range(40_000)) + b"u"
UNICODE_DTYPE = (
    b"cnumpy\ndtype\n(X\x05\x00\x00\x00U9999\x89\x88tR"
    b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
WIDE = b"B" + (39996).to_bytes(4, "little") + b"a\0\0\0" * 9999
AMPLIFIED = {
    # what is put into the memo at 200 and 201, and what is then done 20,000 times
    "encode": (b"c_codecs\nencode\nq\xc8" + TEXT + b"X\x06\x00\x00\x00latin1\x86q\xc9", b"h\xc8h\xc9R"),
    "size": (b"ctorch\nSize\nq\xc8" + TEXT + b"\x85q\xc9", b"h\xc8h\xc9R"),
    "size_of_numbers": (b"ctorch\nSize\nq\xc8(" + b"K\x00" * 100_000 + b"t\x85q\xc9", b"h\xc8h\xc9R"),
    "list": (b"ctorch.jit._pickle\nbuild_intlist\nq\xc8" + LIST + b"\x85q\xc9", b"h\xc8h\xc9R"),
    "list_of_text": (b"ctorch.jit._pickle\nbuild_intlist\nq\xc8" + TEXT + b"\x85q\xc9", b"h\xc8h\xc9R"),
    "device": (b"ctorch\ndevice\nq\xc8(" + b"K\x00" * 100_000 + b"tq\xc9", b"h\xc8h\xc9R"),
    "arguments_of_text": (b"ctorch\ndevice\nq\xc8" + TEXT + b"q\xc9", b"h\xc8h\xc9R"),
    "module": (b"c__torch__\nA\nq\xc8" + KEYS + b"q\xc9", b"h\xc8)Rh\xc9b"),
    "namespace": (b"cargparse\nNamespace\nq\xc8" + KEYS + b"q\xc9", b"h\xc8)\x81h\xc9b"),
    "scalar": (
        b"cnumpy.core.multiarray\nscalar\nq\xc8" + UNICODE_DTYPE + WIDE + b"\x86q\xc9", b"h\xc8h\xc9R",
    ),
    "same_text": (TEXT + b"q\xc8", b"h\xc8"),
    "same_list": (LIST + b"q\xc8", b"h\xc8"),
    "same_tensor": (rebuild(STORAGE) + b"q\xc8", b"h\xc8"),
}  # fmt: skip
READ = """
import resource, sys
from pathlib import Path
from cusa_jax.errors import InputError
from cusa_jax.weights import torch_file
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for path in map(Path, sys.argv[1:]):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        torch_file.read(path)
    except InputError as error:
        print(error)
    print(path.stem, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_is_in_proportion_to_the_file(tmp_path):
    for kind, (first, again) in AMPLIFIED.items():
        program, storage = b"\x80\x03" + first + b"](" + again * 20_000 + b"e.", bytes(24)
        if kind == "same_tensor":
            storage = bytes(4 * 250_000)
            program = program.replace(b"K\x06t", b"J" + (250_000).to_bytes(4, "little") + b"t")
            program = program.replace(b"K\x06\x85", b"J" + (250_000).to_bytes(4, "little") + b"\x85")
        archive(tmp_path / f"{kind}.pt", program, data__0=storage)
    done = subprocess.run(
        [sys.executable, "-c", READ, *(str(tmp_path / f"{kind}.pt") for kind in AMPLIFIED)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    for kind, message, mebibytes in zip(AMPLIFIED, lines[::2], lines[1::2], strict=True):
        assert message.startswith(f"{tmp_path / kind}.pt: ")
        assert "MemoryError" not in message
        assert mebibytes.split()[0] == kind
        assert int(mebibytes.split()[1]) < 64, kind  # the files have half a megabyte


def test_values_that_are_deep_or_share_without_bound_are_refused(tmp_path):
    deep: list = []
    for _ in range(100):
        deep = [deep]
    shared: list = [0]
    for _ in range(40):
        shared = [shared, shared]  # 2^40 paths
    for value in (deep, shared, {"a": (deep,)}):
        path = archive(tmp_path / "x.pt", pickle.dumps(value, 2))
        with pytest.raises(InputError, match=r"nested as no model is|far more than the file is long"):
            torch_file.read(path)
    path = archive(tmp_path / "x.pt", b"\x80\x02" + b")" + b"\x85" * 300_000 + b".")
    with pytest.raises(InputError, match="nested as no model is"):
        torch_file.read(path)
    itself = b"\x80\x02]q\x00(h\x00e."
    with pytest.raises(InputError, match=r"far more|nested"):
        torch_file.read(archive(tmp_path / "x.pt", itself))


def test_a_namespace_is_its_options(tmp_path):
    options = argparse.Namespace(batch_size=128, data_name="f30k_precomp", lr=0.0002, self_attention=None)
    for protocol in (2, 4):
        path = archive(tmp_path / "x.pt", pickle.dumps({"opt": options}, protocol))
        read = torch_file.read(path)["opt"]
        assert isinstance(read, torch_file.Namespace)
        assert read == vars(options)


@pytest.mark.parametrize("state", [b"](K\x01K\x02e", b"N", b"((K\x01K\x02tt"])
def test_attributes_are_a_dict(tmp_path, state):
    program = b"\x80\x02cargparse\nNamespace\n)\x81" + state + b"b."
    with pytest.raises(InputError, match="attributes are no dict"):
        torch_file.read(archive(tmp_path / "x.pt", program))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: shutil.copy(FOLDER / "legacy.pt", path), "before 1.6"),
        (lambda path: path.write_bytes(b""), "no zip archive"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com"), "no zip archive"),
        (lambda path: path.write_bytes(SAVED.read_bytes()[:-100]), "truncated or damaged"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: archive(path, b"\x80\x02N.", byteorder=b"big"), "written on a big-endian machine"),
        (lambda path: archive(path, b"\x80\x02N.", zipfile.ZIP_DEFLATED), "compressed"),
        (lambda path: archive(path, tensor_program(0, (2,), (1,)), data__0=bytes(20)), "is not 6 numbers"),
        (lambda path: archive(path, tensor_program(0, (2,), (1,))), "truncated or damaged"),
    ],
    ids=["legacy", "empty", "lfs", "truncated", "folder", "big_endian", "compressed", "short", "no_storage"],
)  # fmt: skip
def test_other_files_are_told_in_a_line(tmp_path, make, told):
    make(tmp_path / "x.pt")
    with pytest.raises(InputError, match=rf"x\.pt: .*{told}"):
        torch_file.read(tmp_path / "x.pt")


def test_members_on_top_of_each_other_are_refused(tmp_path):
    """A zip bomb of stored members: many entries of the directory that share the bytes of one."""
    path = archive(tmp_path / "x.pt", b"\x80\x02N.", data__0=bytes(1000))
    with zipfile.ZipFile(path, "a") as file:
        for n in range(1, 50):
            copy = zipfile.ZipInfo(f"archive/data/{n}")
            one = file.getinfo("archive/data/0")
            copy.header_offset, copy.file_size, copy.compress_size, copy.CRC = (
                one.header_offset, one.file_size, one.compress_size, one.CRC,
            )  # fmt: skip
            file.filelist.append(copy)
            file.NameToInfo[copy.filename] = copy
        file._didModify = True
    with pytest.raises(InputError, match="more bytes than the file has"):
        torch_file.read(path)


def test_nesting_without_bound_is_refused(tmp_path):
    deep = shared = {"a": np.zeros(1)}
    for _ in range(100):
        deep = {"a": deep}
    for _ in range(40):
        shared = {"a": shared, "b": shared}  # 2^40 paths
    itself: dict = {}
    itself["a"] = itself
    for value in (deep, shared, itself):
        with pytest.raises(InputError, match="nested as no model is"):
            torch_file.flatten(value)


@pytest.mark.parametrize("name", ["saved.pt", "scripted.pt"])
def test_damage_is_an_input_error_or_harmless(tmp_path, name):
    data = (FOLDER / name).read_bytes()
    path, messages = tmp_path / name, []
    for content in golden.damaged(data, truncations=60, flips=240):
        path.write_bytes(content)
        try:
            torch_file.flatten(torch_file.read(path))
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 120  # the rest is padding, compressed code, and what the CRC does not cover
    assert not any("\n" in message for message in messages)

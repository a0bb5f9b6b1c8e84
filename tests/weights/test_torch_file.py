"""PyTorch's zip files: what torch wrote is read bit by bit, what we write says the same, hostile files do nothing."""

import io
import os
import pickle
import shutil
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

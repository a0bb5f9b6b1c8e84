"""PyTorch's zip files (`torch.save` since 1.6, TorchScript archives such as OpenAI's CLIP), without PyTorch.

A zip of stored members under one folder: data.pkl (what was saved, a tensor being a storage's number, an offset,
a size and a stride), data/0, data/1, … (the storages, raw), byteorder. Reading never executes anything, and
allocates no more than the file is long.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.files import written_whole
from cusa_jax.weights.pickles import NUMPY_GLOBALS, lookup, read_pickle

STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_STORAGE_OF = {dtype: name for name, dtype in STORAGES.items()}
_DEEPEST, _MOST = 64, 100_000  # levels and entries of a nested state dict
_MOST_AXES = 64  # of a tensor, as in numpy
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)[:13]  # what torch.save began with before 1.6


class _Attributes(dict[str, Any]):
    """An object as a dict of its attributes."""

    def build(self, attributes: dict[str, Any]) -> None:
        if not isinstance(attributes, dict):
            raise InputError("holds an object whose attributes are no dict")
        self.update(attributes)


class Module(_Attributes):
    """A TorchScript module: its attributes, submodules among them."""


class Namespace(_Attributes):
    """An `argparse.Namespace`, in which many training programs save their options."""


class _Storage:
    """The numbers that tensors are views of; made for a persistent id alone, never by what a file calls."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers


class _OrderedDict(dict[str, Any]):
    def build(self, attributes: dict[str, Any]) -> None:
        """A state dict's `_metadata`: version numbers of modules, not needed."""


def read(path: Path) -> Any:
    """What was saved; tensors are (read-only) numpy arrays, bfloat16 that of ml_dtypes, modules are `Module`s.

    Raises InputError, in one line that names the file, for whatever is damaged, of another format, or more than
    tensors and plain values.
    """
    try:
        with path.open("rb") as file:
            _check_format(file)
            with zipfile.ZipFile(file) as archive:
                return _read(archive, file.seek(0, os.SEEK_END))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # what a damaged file does to a parser cannot be foreseen
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: truncated or damaged ({reason}); get it again") from error


def flatten(value: Any) -> dict[str, np.ndarray]:
    """{dotted name: tensor} of nested dicts and modules; everything but tensors is left out.

    Raises InputError for nesting that no model has.
    """
    return dict(_tensors(value, (), [0]))


def write(path: Path, value: Any) -> None:
    """`torch.save` of dicts, lists, tuples, plain values and arrays, which torch.load(weights_only=True) reads;
    of Namespaces if argparse's is among its safe globals.

    Arrays become contiguous tensors of their dtype. Writes whole or not at all. Raises InputError for a dtype or
    a type that has no counterpart.
    """
    arrays: list[np.ndarray] = []
    program = b"\x80\x02" + b"".join(_instructions(value, arrays)) + b"."
    with written_whole(path) as fresh, zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (("data.pkl", program), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
        for number, array in enumerate(arrays):
            little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
            with archive.open(zipfile.ZipInfo(f"archive/data/{number}"), "w", force_zip64=True) as member:
                member.write(little.reshape(-1).view(np.uint8).data)


# --- reading --------------------------------------------------------------------------------------------------


def _check_format(file: BinaryIO) -> None:
    start = file.read(len(_LEGACY_MAGIC))
    if start == _LEGACY_MAGIC:
        raise InputError(
            "saved by PyTorch before 1.6, or with _use_new_zipfile_serialization=False; load it there and "
            "torch.save it again"
        )
    if not start.startswith(_ZIP_MAGIC):
        raise InputError("not a file of torch.save (no zip archive)")


def _read(archive: zipfile.ZipFile, file_size: int) -> Any:
    members = {info.filename: info for info in archive.infolist()}
    roots = [
        name.removesuffix("data.pkl")
        for name in members
        if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
        raise InputError("not a file of torch.save (no data.pkl in it)")
    [root] = roots
    if sum(info.file_size for name, info in members.items() if _is_stored(info)) > file_size:
        raise InputError("its members claim more bytes than the file has; get it again")

    def content(name: str) -> bytes:
        if not _is_stored(members[root + name]):
            raise InputError(f"{name} is compressed, which torch.save never does; not read")
        return archive.read(root + name)

    if root + "byteorder" in members and (order := content("byteorder")) != b"little":
        raise InputError(
            f"written on a {order[:20].decode(errors='replace')}-endian machine; save it on another"
        )

    storages: dict[str, _Storage] = {}

    def storage(identifier: Any) -> _Storage:
        kind, dtype, key, _, size = identifier
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise InputError("names a storage as torch.save does not")
        if key not in storages:
            storages[key] = _Storage(np.frombuffer(content(f"data/{key}"), dtype))
        numbers = storages[key].numbers
        if numbers.dtype != dtype or numbers.shape != (size,):
            raise InputError(f"storage {key[:20]!r} is not {size} numbers of {dtype}; get the file again")
        return storages[key]

    return read_pickle(io.BytesIO(content("data.pkl")), _torch_global, storage, stored=file_size)


def _is_stored(info: zipfile.ZipInfo) -> bool:
    return info.compress_type == zipfile.ZIP_STORED


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """A view of a storage; what it reaches lies inside, and it is not larger than the storage."""
    if not isinstance(storage, _Storage):
        raise InputError("holds a tensor that is not a view of a storage; refused")
    numbers = storage.numbers
    _check_whole((offset,), size, stride)
    if len(size) != len(stride):
        raise InputError("holds a tensor of contradictory sizes")
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count > numbers.size or (count and last >= numbers.size):
        raise InputError(
            f"holds a tensor {list(size)} that is larger than its storage of {numbers.size} numbers"
        )
    if not count:
        return np.empty(size, numbers.dtype)
    # A length of 1 can have any stride. numpy checks once more that the view lies in the buffer.
    strides = [
        step * numbers.itemsize if length > 1 else 0 for length, step in zip(size, stride, strict=True)
    ]
    buffer = numbers.view(np.uint8)  # as bfloat16 has no buffer of its own
    return np.ndarray(size, numbers.dtype, buffer, offset * numbers.itemsize, strides)


def _check_whole(*groups: Any) -> None:
    for group in groups:
        if not isinstance(group, tuple) or len(group) > _MOST_AXES:
            raise InputError("holds a tensor whose sizes are no short tuple")
        if not all(type(number) is int and 0 <= number < 2**63 for number in group):
            raise InputError("holds a tensor of sizes that are negative or no whole numbers")


def _size(lengths: Any) -> tuple[int, ...]:
    """torch.Size."""
    _check_whole(lengths)
    return lengths


def _items(values: Any = ()) -> list[Any]:
    """TorchScript's typed list."""
    if not isinstance(values, list | tuple):
        raise InputError("holds a list that was made of something else")
    return list(values)


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes, as protocol 2 writes them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise InputError("holds bytes in another encoding than pickles have")
    return text.encode("latin1")


_GLOBALS: dict[str, Any] = {
    **NUMPY_GLOBALS,
    "_codecs encode": _encoded,
    "argparse Namespace": lambda: Namespace(),
    "collections OrderedDict": lambda: _OrderedDict(),
    "torch Size": _size,
    "torch device": lambda *name: name,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
    **{f"torch {name}": dtype for name, dtype in STORAGES.items()},
    # TorchScript's typed lists and dicts
    **{f"torch.jit._pickle build_{kind}list": _items for kind in ("int", "double", "bool", "tensor")},
    "torch.jit._pickle restore_type_tag": lambda value, _: value,
}


def _torch_global(name: str) -> Any:
    if name.startswith(("__torch__ ", "__torch__.")):  # a class of the archive's own
        return lambda *_: Module()
    return lookup(_GLOBALS, name, "a tensor or a plain value")


def _tensors(value: Any, names: tuple[str, ...], seen: list[int]) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, np.ndarray):
        yield ".".join(names), value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            seen[0] += 1
            if seen[0] > _MOST or len(names) > _DEEPEST:
                raise InputError("is nested as no model is; not read")
            yield from _tensors(item, (*names, str(key)), seen)


# --- writing --------------------------------------------------------------------------------------------------


def _instructions(value: Any, arrays: list[np.ndarray]) -> Iterator[bytes]:
    """The pickle program that builds `value`; its arrays are appended to `arrays`, in the order of their numbers."""
    if value is None or isinstance(value, bool | int | float | str):
        yield pickle.dumps(value, 2)[2:-1]  # without the header and the stop
    elif isinstance(value, np.ndarray | np.generic):
        yield from _tensor_instructions(np.asarray(value), arrays)
    elif isinstance(value, Namespace):
        yield b"cargparse\nNamespace\n)\x81" + b"".join(_instructions(dict(value), arrays)) + b"b"
    elif isinstance(value, Mapping):
        yield b"}("
        for key, item in value.items():
            yield from _instructions(key, arrays)
            yield from _instructions(item, arrays)
        yield b"u"
    elif isinstance(value, list | tuple):
        yield b"](" if isinstance(value, list) else b"("
        for item in value:
            yield from _instructions(item, arrays)
        yield b"e" if isinstance(value, list) else b"t"
    else:
        raise InputError(f"a {type(value).__name__} cannot be written to a PyTorch file")


def _tensor_instructions(array: np.ndarray, arrays: list[np.ndarray]) -> Iterator[bytes]:
    if array.dtype not in _STORAGE_OF:
        raise InputError(f"an array of {array.dtype} cannot be written to a PyTorch file")
    number = str(len(arrays))
    arrays.append(array)
    strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
    yield b"ctorch._utils\n_rebuild_tensor_v2\n("
    yield b"(" + pickle.dumps("storage", 2)[2:-1] + f"ctorch\n{_STORAGE_OF[array.dtype]}\n".encode()
    for identifier in (number, "cpu", int(array.size)):
        yield from _instructions(identifier, arrays)
    yield b"tQ"
    for argument in (0, array.shape, strides, False):  # offset, size, stride, requires_grad
        yield from _instructions(argument, arrays)
    yield b"ccollections\nOrderedDict\n)RtR"  # no hooks

"""The reference's feature files: np.save of a pickled {image id: float array [1, D]}, read without unpickling.

Unpickling runs whatever program a file holds. This reader walks the opcodes and builds plain values, lists,
dicts and numpy arrays; a global is only ever a name, compared with the few that numpy writes, so there is
nothing that it could import or call. Arrays are views of bytes read from the file: nothing is allocated for
a size that the file merely claims.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from cusa_jax.errors import InputError

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINFLOAT",
)  # fmt: skip
_NUMPY_GLOBALS = {
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "numpy.core.multiarray _reconstruct": "_reconstruct",
    "numpy._core.multiarray _reconstruct": "_reconstruct",
    "numpy.core.multiarray scalar": "scalar",
    "numpy._core.multiarray scalar": "scalar",
}
_DTYPE = re.compile(r"[fiu][1248]|U\d{1,4}|O8")


def read_pickled_features(path: Path) -> dict[str, np.ndarray]:
    """{image id: array} of a `*_unicom.npy`; the arrays have the shapes and dtypes that were saved.

    Reference dataset/cross_coco_dataset.py:34. Raises InputError where the file is damaged, is not such a
    dict, or asks for anything but numpy arrays.
    """
    try:
        with path.open("rb") as file:
            _read_object_header(file)
            [features] = _Builder().build(file).value
            return {str(key): _array_of(key, feature) for key, feature in features.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # what a damaged file does to a parser cannot be foreseen
        raise InputError(f"{path}: damaged, or not a dict {{image id: feature}} ({error!r})") from error


def _read_object_header(file: BinaryIO) -> None:
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    shape, _, dtype = read_header(file)
    if shape != () or dtype.kind != "O":
        raise InputError(
            f"a plain {dtype} array {list(shape)}; what is needed is a dict {{image id: feature}}"
        )


class _Named:
    """A global of numpy's, by name."""

    def __init__(self, name: str):
        self.name = name


class _Dtype:
    def __init__(self, code: str):
        if not _DTYPE.fullmatch(code):
            raise InputError(f"holds arrays of dtype {code[:20]!r}; only numbers are read")
        self.code, self.order = code, "="

    def build(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """An array announced by `_reconstruct`; `build` fills it. An array of objects becomes a list."""

    value: Any = None

    def build(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if dtype.code == "O8":
            self.value = data
        else:
            flat = np.frombuffer(data, dtype.numpy())
            self.value = flat.reshape(shape, order="F" if fortran else "C")


def _array_of(image_id: str | int, feature: Any) -> np.ndarray:
    if isinstance(feature, _Array) and isinstance(feature.value, np.ndarray):
        return feature.value
    raise InputError(f"the feature of {image_id!r} is not an array of numbers")


class _Builder:
    """A stack machine for the part of the pickle language in which numpy writes arrays."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def build(self, file: BinaryIO) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        return self.stack.pop()

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case _ if opcode in _CONSTANTS:
                stack.append(_CONSTANTS[opcode])
            case _ if opcode in _LITERALS:
                stack.append(argument)
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self._pop(from_mark=True)))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(opcode[-1]))))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "APPEND" | "APPENDS":
                items = self._pop(1, from_mark=opcode == "APPENDS")
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2, from_mark=opcode == "SETITEMS")
                stack[-1].update(_pairs(items))
            case "GLOBAL":
                stack.append(_numpy_global(argument))
            case "STACK_GLOBAL":
                stack.append(_numpy_global(" ".join(self._pop(2))))
            case "REDUCE":
                named, arguments = self._pop(2)
                stack.append(_make(named.name, arguments))
            case "BUILD":
                [state] = self._pop(1)
                stack[-1].build(state)
            case _:
                raise InputError(
                    f"uses the pickle instruction {opcode}, which no numpy array needs; not read"
                )

    def _pop(self, count: int = 0, *, from_mark: bool = False) -> list[Any]:
        start = self.marks.pop() if from_mark else len(self.stack) - count
        if start < 0:
            raise IndexError("nothing on the stack")
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _pairs(items: list[Any]) -> Iterator[tuple[str | int, Any]]:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | int):  # the hash of a deeply nested tuple would overflow the stack
            raise InputError("an image id is neither text nor number")
        yield key, value


def _numpy_global(name: str) -> _Named:
    if name not in _NUMPY_GLOBALS:
        asked = name.replace(" ", ".")[:80]
        raise InputError(f"asks for {asked!r}, which is not a dict of numpy arrays; refused, nothing was run")
    return _Named(_NUMPY_GLOBALS[name])


def _make(name: str, arguments: tuple) -> Any:
    if name == "_reconstruct":
        return _Array()
    if name == "dtype":
        return _Dtype(arguments[0])
    if name == "scalar":
        dtype, data = arguments
        return np.frombuffer(data, dtype.numpy())[0].item()
    raise InputError(f"calls numpy.{name}; not read")

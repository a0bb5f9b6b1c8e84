"""The pickle language, read without unpickling.

Unpickling runs whatever program a file holds. This reader walks the opcodes and builds plain values, lists and
dicts; a global is only ever a name, looked up in the caller's table of what it may stand for, so there is
nothing that a file could import or call.

Memory is bounded by the length of the pickle times a constant: what calls make is counted as it is made, and what
was read may not be much larger than the pickle when everything that it shares is written out.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, cast

import numpy as np

from cusa_jax.errors import InputError

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINFLOAT",
)  # fmt: skip
_DTYPE = re.compile(r"[fiu][1248]|b1|U\d{1,4}|O8")
_DEEPEST = 64  # levels of nesting
_BUILT, _WRITTEN_OUT, _VIEWED = (
    64,
    16,
    16,
)  # bytes for each byte of the file: made by calls, of values, of arrays
_SMALL = 2**16  # bytes that any file may take


def read_pickle(
    file: BinaryIO,
    resolve: Callable[[str], Any],
    persistent: Callable[[Any], Any] | None = None,
    *,
    stored: int = 0,
) -> Any:
    """The value that a pickle of protocol 2 or later describes, which starts where `file` stands.

    resolve: 'module name' of a global -> what stands for it; raises InputError for what is not wanted. Objects
        that the file then calls must be harmless for any arguments, and those whose state it sets have `build`.
    persistent: what stands for a persistent id.
    stored: bytes outside the pickle that its arrays may be views of.

    Raises InputError for instructions that data does not need, and for values that would not stay in proportion to
    the file; a damaged file can raise anything.
    """
    length = _remaining(file)
    value = _Machine(resolve, persistent, _SMALL + _BUILT * length).run(cast(BinaryIO, _Bounded(file)))
    _check_extent(value, _SMALL + _WRITTEN_OUT * length, _SMALL + _VIEWED * (length + stored))
    return value


def _remaining(file: BinaryIO) -> int:
    start = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(start)
    return end - start


class _Bounded:
    """A file of which no more is asked than there is: Python's own readers allocate what they are asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, _remaining(self._file)) if size > io.DEFAULT_BUFFER_SIZE else size)

    def readline(self) -> bytes:
        return self._file.readline()


class _Machine:
    """A stack machine for the part of the pickle language in which data is written."""

    def __init__(
        self, resolve: Callable[[str], Any], persistent: Callable[[Any], Any] | None, allowance: int
    ) -> None:
        self.resolve, self.persistent = resolve, persistent
        self.allowance = allowance
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        return self.stack.pop()

    def _count(self, made: Any) -> None:
        self.allowance -= sys.getsizeof(made)
        if self.allowance < 0:
            raise InputError("asks for far more memory than the file is long; refused")

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
                stack.append(self.resolve(argument))
            case "STACK_GLOBAL":
                stack.append(self.resolve(" ".join(self._pop(2))))
            case "REDUCE" | "NEWOBJ":
                function, arguments = self._pop(2)
                if type(arguments) is not tuple:
                    raise InputError("calls something without a tuple of arguments; not read")
                stack.append(function(*arguments))
                self._count(stack[-1])
            case "BUILD":
                [state] = self._pop(1)
                stack[-1].build(state)
                self._count(stack[-1])
            case "BINPERSID" if self.persistent is not None:
                [identifier] = self._pop(1)
                stack.append(self.persistent(identifier))
            case _:
                raise InputError(
                    f"uses the pickle instruction {opcode}, which plain data does not need; not read"
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
            raise InputError("a key of a dict is neither text nor number")
        yield key, value


def _check_extent(value: Any, most: int, most_viewed: int) -> None:
    """Raises InputError where `value`, with everything that it shares written out, is too deep or too large.

    Who reads it can then walk it, copy it or show it. most: bytes of text and numbers of items, together.
    most_viewed: bytes of arrays.
    """
    level, size, viewed = [value], 0, 0
    for _ in range(_DEEPEST):
        items: list[Any] = []
        for node in level:
            if isinstance(node, PickledArray):
                node = node.value
            if isinstance(node, np.ndarray):
                viewed += node.nbytes
            elif isinstance(node, str | bytes | list | tuple | dict):
                size += len(node)
            if size > most or viewed > most_viewed:
                raise InputError(
                    "holds far more than the file is long, the same things again and again; refused"
                )
            if isinstance(node, list | tuple | dict):
                items.extend(node)
            if isinstance(node, dict):
                items.extend(node.values())
        if not items:
            return
        level = items
    raise InputError("is nested as no model is; not read")


def lookup(table: Mapping[str, Any], name: str, wanted: str) -> Any:
    """table[name]. Raises InputError naming the global where it is not there."""
    if name not in table:
        asked = name[:80].replace(" ", ".")
        raise InputError(f"asks for {asked!r}, which is not {wanted}; refused, nothing was run")
    return table[name]


class _Dtype:
    def __init__(self, code: str, *_: Any):
        if not _DTYPE.fullmatch(code):
            raise InputError(f"holds arrays of dtype {code[:20]!r}; only numbers are read")
        self.code, self.order = code, "="

    def build(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class PickledArray:
    """An array announced by numpy's `_reconstruct`; `build` fills it. An array of objects becomes a list.

    Values are views of bytes read from the file: nothing is allocated for a size that the file merely claims.
    """

    value: Any = None

    def __init__(self, *_: Any):
        pass

    def build(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if dtype.code == "O8":
            self.value = data
        else:
            flat = np.frombuffer(data, dtype.numpy())
            self.value = flat.reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.numpy())[0].item()


# What numpy's arrays and scalars are pickled with, before and after version 2.
NUMPY_GLOBALS: dict[str, Any] = {
    "numpy ndarray": "ndarray",  # only ever an argument
    "numpy dtype": _Dtype,
    **{
        f"numpy.{core}.multiarray {name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", PickledArray), ("scalar", _scalar))
    },
}

"""The index of a photo folder: one SQLite file with two embeddings a photo (ingest.py makes it).

Every embedding has a checksum: one that changed on the disk is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.models.families import describe
from cusa_jax.models.student import Student
from cusa_jax.search.photos import State
from cusa_jax.types import Params

_FORMAT = "cusa_jax photo index 2"
_TABLES = (
    "CREATE TABLE origin (format TEXT, photos TEXT, checkpoint TEXT, fingerprint TEXT)",
    "CREATE TABLE photos (name BLOB PRIMARY KEY, size INTEGER, time INTEGER, "
    "cross BLOB, uni BLOB, cross_sum INTEGER, uni_sum INTEGER)",
)


@dataclasses.dataclass(frozen=True)
class Origin:
    """What an index is made of. photos: the folder. checkpoint: as the user named it. fingerprint: its model's."""

    photos: str
    checkpoint: str
    fingerprint: str

    @property
    def dtype(self) -> str:
        """In which its embeddings were computed, 'float32' or 'bfloat16'; queries are computed alike."""
        return "bfloat16" if self.fingerprint.endswith(" bfloat16") else "float32"


@dataclasses.dataclass(frozen=True)
class Index:
    """What an index holds. names: of N photos under the folder, in order. cross, uni: embeddings float32 [N, E]."""

    origin: Origin
    names: list[str]
    cross: np.ndarray
    uni: np.ndarray


def fingerprint(student: Student, variables: Params, dtype: str = "float32") -> str:
    """sha256 of everything that an embedding depends on: family, sizes, heads, and every bit of the weights.

    A computation in another dtype than float32 is named behind it.
    """
    described: dict[str, Any] = {
        **describe(student.family, student.sizes),
        "heads": getattr(student, "heads", None),
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for path, leaf in jax.tree.leaves_with_path(variables):
        array = np.asarray(leaf, order="C")
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest() + ("" if dtype == "float32" else f" {dtype}")


def read(file: Path) -> Index:
    """Raises InputError for a file that is no index, a damaged one, or one without photos."""
    if not file.is_file():
        raise InputError(f"{file}: no such index; `scripts/search.py index PHOTOS --out={file}` makes it")
    with opened(file) as index:
        origin = origin_of(index, file)
        rows = index.execute(
            "SELECT name, cross, uni, cross_sum, uni_sum FROM photos ORDER BY name"
        ).fetchall()
    if not rows:
        raise InputError(f"{file}: there are no photos in it")
    damaged = sum(not sound(name, *embeddings) for name, *embeddings in rows)
    if damaged or len({(len(cross), len(uni)) for _, cross, uni, _, _ in rows}) > 1 or len(rows[0][1]) % 4:
        raise InputError(
            f"{file}: damaged, {damaged or 'some'} of its embeddings are not as they were written; the command that "
            "made it mends it"
        )
    if outside := next((name for name, *_ in rows if not _is_within(name)), None):
        raise InputError(f"{file}: names a file outside its folder, {os.fsdecode(outside)}; make it anew")
    names, crosses, unis, *_ = zip(*rows, strict=True)
    cross, uni = (
        np.frombuffer(b"".join(blobs), np.float32).reshape(len(rows), -1) for blobs in (crosses, unis)
    )
    return Index(origin, list(map(os.fsdecode, names)), cross, uni)


def create(index: sqlite3.Connection, origin: Origin) -> None:
    """An empty file becomes an index of this origin, in one transaction."""
    with index:
        index.execute("BEGIN")
        for table in _TABLES:
            index.execute(table)
        index.execute("INSERT INTO origin VALUES (?, ?, ?, ?)", (_FORMAT, *dataclasses.astuple(origin)))


def replace(index: sqlite3.Connection, names: Iterable[bytes], rows: Iterable[tuple]) -> None:
    """In one transaction: `names` out, `rows` in."""
    with index:
        index.executemany("DELETE FROM photos WHERE name = ?", ((name,) for name in names))
        index.executemany("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def row(name: bytes, state: State, cross: np.ndarray, uni: np.ndarray) -> tuple:
    """A photo of an index. cross, uni: embeddings float32 [E]."""
    blobs = cross.tobytes(), uni.tobytes()
    return (name, *state, *blobs, *(_sum(name, blob) for blob in blobs))


def sound(name: Any, cross: Any, uni: Any, cross_sum: Any, uni_sum: Any) -> bool:
    """Whether the embeddings of a row are as they were written; in a damaged file, they may be of any type."""
    blobs = isinstance(name, bytes) and isinstance(cross, bytes) and isinstance(uni, bytes)
    return blobs and (_sum(name, cross), _sum(name, uni)) == (cross_sum, uni_sum)


def _sum(name: bytes, embedding: bytes) -> int:
    return zlib.crc32(embedding, zlib.crc32(name))


def _is_within(name: bytes) -> bool:
    """An index may come from others: no name of it leads out of the folder."""
    return not os.path.isabs(name) and b".." not in name.split(b"/") and b"\0" not in name


def check_model(file: Path, origin: Origin, fingerprint_here: str, checkpoint: str) -> None:
    """Raises InputError where the model of `checkpoint`, as it is computed here, did not make the index."""
    if origin.fingerprint == fingerprint_here:
        return
    if origin.fingerprint.partition(" ")[0] == fingerprint_here.partition(" ")[0]:
        raise InputError(
            f"{file}: its embeddings were computed in {origin.dtype}; say --dtype={origin.dtype}, or index again, to "
            "another file"
        )
    raise InputError(
        f"{file}: was made with another model than {checkpoint} holds (then {origin.checkpoint}); "
        "embeddings of two models cannot be compared: index again, to another file"
    )


def origin_of(index: sqlite3.Connection, file: Path) -> Origin:
    row = index.execute("SELECT format, photos, checkpoint, fingerprint FROM origin").fetchone()
    if row is None or row[0] != _FORMAT:
        raise InputError(
            f"{file}: not an index of this version; index again, to another file, or delete this one before"
        )
    return Origin(*map(str, row[1:]))


@contextlib.contextmanager
def opened(file: Path, create: bool = False) -> Iterator[sqlite3.Connection]:
    """The database. create: where there is none, an empty one. Raises InputError for what SQLite says of it."""
    # Read-write for reading too: SQLite then rolls back what a killed run left half done.
    mode = "rwc" if create else "rw"
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True)
        ) as index:
            yield index
    except sqlite3.Error as error:
        raise InputError(f"{file}: not a readable index ({error})") from error

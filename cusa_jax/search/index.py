"""The index of a photo folder: one SQLite file with two embeddings a photo, brought up to date in transactions.

A killed run leaves the index as its last transaction left it, which is whole, and the next run continues there. Every
embedding has a checksum: one that changed on the disk is refused by a query and made anew by the next run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from cusa_jax.data.pipeline import decoded_batches
from cusa_jax.data.sources import ImageFiles
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.models.families import describe
from cusa_jax.models.student import Student
from cusa_jax.progress import progress
from cusa_jax.search.changes import gone_and_kept, is_moved
from cusa_jax.search.photos import State, find_photos
from cusa_jax.types import Params

_FORMAT = "cusa_jax photo index 2"
_TABLES = (
    "CREATE TABLE origin (format TEXT, photos TEXT, checkpoint TEXT, fingerprint TEXT)",
    "CREATE TABLE photos (name BLOB PRIMARY KEY, size INTEGER, time INTEGER, "
    "cross BLOB, uni BLOB, cross_sum INTEGER, uni_sum INTEGER)",
)
Head = Literal["cross", "uni"]


@dataclasses.dataclass(frozen=True)
class Origin:
    """What an index is made of. photos: the folder. checkpoint: as the user named it. fingerprint: its model's."""

    photos: str
    checkpoint: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Updated:
    """What bringing an index up to date came to: numbers of photos, and one line for each that is unreadable.

    left_out: as `photos.Photos`. kept: photos that stay in the index though they were not found (changes.py).
    """

    encoded: int
    unchanged: int
    removed: int
    unreadable: list[str]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kept: int = 0


def fingerprint(student: Student, variables: Params) -> str:
    """sha256 of everything that an embedding depends on: family, sizes, heads, and every bit of the weights.

    Search computes in float32, whatever the weights were trained in.
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
    return digest.hexdigest()


def update(file: Path, origin: Origin, encoder: Encoder, params: Params, forget: bool = False) -> Updated:
    """Makes `file` the index of all photos under `origin.photos`, encoding only those that are new or changed.

    A photo has changed if its size or modification time has; one whose embedding is damaged counts as changed.
    Photos that are gone or cannot be read are not in it, those of folders that seem unmounted are (changes.py).
    forget: takes these out too. A folder that was moved is recognised by its photos.
    Raises InputError where there is no such folder, where it has no photos though the index has, as that of a drive
    that is not there, or `file` is no index, or one of other photos or another model.
    """
    photos = find_photos(Path(origin.photos))
    with contextlib.closing(_connect(file, create=True)) as index, _as_input_errors(file):
        known = _claim(index, file, origin, photos.states)
        if known and not photos.states and not forget:
            raise InputError(
                f"{origin.photos}: no photos in it, and {file} has {len(known)} of it: is a drive not there? The index "
                "stays as it is; --forget takes them out if they are gone for good"
            )
        gone, kept = gone_and_kept(known, photos.states)
        if forget:
            gone, kept = gone + kept, []
        changed = [name for name, state in photos.states.items() if known.get(name) != state]
        _replace(index, gone, [])
        unreadable = _encode(index, origin, photos.states, changed, encoder, params)
    unchanged, encoded = len(photos.states) - len(changed), len(changed) - len(unreadable)
    return Updated(encoded, unchanged, len(gone), unreadable, photos.left_out, len(kept))


def _known(index: sqlite3.Connection) -> dict[bytes, State | None]:
    """The photos in the index, and of which state; None where an embedding is damaged."""
    rows = index.execute("SELECT name, size, time, cross, uni, cross_sum, uni_sum FROM photos")
    return {
        name: (size, time) if (_sum(name, cross), _sum(name, uni)) == (cross_sum, uni_sum) else None
        for name, size, time, cross, uni, cross_sum, uni_sum in rows
    }


def _encode(
    index: sqlite3.Connection,
    origin: Origin,
    states: Mapping[bytes, State],
    names: list[bytes],
    encoder: Encoder,
    params: Params,
) -> list[str]:
    """Puts photos into the index, batch by batch; one line for each that is unreadable, which is taken out of it."""
    unreadable: list[str] = []
    images = ImageFiles([Path(origin.photos, os.fsdecode(name)) for name in names], as_shown=True)
    batches = decoded_batches(
        images, encoder.student.inputs.image, batch_size=encoder.batch_size, on_bad_image="skip"
    )
    with (
        contextlib.closing(batches),
        progress(total=len(names), what="index", unit="photo", shown=bool(names)) as bar,
    ):
        for numbers, pixels, errors in batches:
            embeddings = encoder.images(params, pixels) if len(numbers) else ((), ())
            # The batch may be padded.
            rows = [
                _row(names[number], states, cross.tobytes(), uni.tobytes())
                for number, cross, uni in zip(numbers, *embeddings, strict=False)
            ]
            done = names[bar.n : bar.n + encoder.batch_size]
            _replace(index, done, rows)
            unreadable += errors
            bar.update(len(done))
    return unreadable


def _row(name: bytes, states: Mapping[bytes, State], cross: bytes, uni: bytes) -> tuple:
    return (name, *states[name], cross, uni, _sum(name, cross), _sum(name, uni))


def _sum(name: Any, embedding: Any) -> int | None:
    """None for what are no bytes, as in a damaged file."""
    sound = isinstance(name, bytes) and isinstance(embedding, bytes)
    return zlib.crc32(embedding, zlib.crc32(name)) if sound else None


def _replace(index: sqlite3.Connection, names: list[bytes], rows: list[tuple]) -> None:
    """In one transaction: `names` out, `rows` in."""
    with index:
        index.executemany("DELETE FROM photos WHERE name = ?", [(name,) for name in names])
        index.executemany("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def read(file: Path, head: Head) -> tuple[Origin, list[Path], np.ndarray]:
    """(origin, N photos in order of their names, embeddings of one head float32 [N, E]).

    Raises InputError for a file that is no index, a damaged one, or one without photos.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such index; `scripts/search.py index PHOTOS --out={file}` makes it")
    with contextlib.closing(_connect(file, create=False)) as index, _as_input_errors(file):
        origin = _origin(index, file)
        rows = index.execute(f"SELECT name, {head}, {head}_sum FROM photos ORDER BY name").fetchall()
    if not rows:
        raise InputError(f"{file}: there are no photos in it")
    damaged = sum(_sum(name, blob) != checksum for name, blob, checksum in rows)
    if damaged or len({len(blob) for _, blob, _ in rows}) > 1 or len(rows[0][1]) % 4:
        raise InputError(
            f"{file}: damaged, {damaged or 'some'} of its embeddings are not as they were written; the command that "
            "made it mends it"
        )
    if outside := next((name for name, _, _ in rows if not _is_within(name)), None):
        raise InputError(f"{file}: names a file outside its folder, {os.fsdecode(outside)}; make it anew")
    embeddings = np.frombuffer(b"".join(blob for _, blob, _ in rows), np.float32).reshape(len(rows), -1)
    return origin, [Path(origin.photos, os.fsdecode(name)) for name, _, _ in rows], embeddings


def _is_within(name: bytes) -> bool:
    """An index may come from others: no name of it leads out of the folder."""
    return not os.path.isabs(name) and b".." not in name.split(b"/") and b"\0" not in name


def _claim(
    index: sqlite3.Connection, file: Path, origin: Origin, found: Mapping[bytes, State]
) -> dict[bytes, State | None]:
    """What `_known` returns, after an empty file became an index of this origin, and one of a moved folder follows it.

    Raises InputError where it is another's.
    """
    if not index.execute("SELECT 1 FROM sqlite_master").fetchone():
        with index:
            index.execute("BEGIN")
            for table in _TABLES:
                index.execute(table)
            index.execute("INSERT INTO origin VALUES (?, ?, ?, ?)", (_FORMAT, *dataclasses.astuple(origin)))
    theirs = _origin(index, file)
    check_model(file, theirs, origin.fingerprint, origin.checkpoint)
    known = _known(index)
    if theirs.photos != origin.photos:
        if Path(theirs.photos).is_dir() or not is_moved(known, found):
            raise InputError(
                f"{file}: is the index of {theirs.photos}; name another --out for {origin.photos}"
            )
        with index:
            index.execute("UPDATE origin SET photos = ?", (origin.photos,))
    return known


def check_model(file: Path, origin: Origin, fingerprint_here: str, checkpoint: str) -> None:
    """Raises InputError where the model of `checkpoint`, whose fingerprint is `found`, did not make the index."""
    if origin.fingerprint != fingerprint_here:
        raise InputError(
            f"{file}: was made with another model than {checkpoint} holds (then {origin.checkpoint}); "
            "embeddings of two models cannot be compared: index again, to another file"
        )


def _origin(index: sqlite3.Connection, file: Path) -> Origin:
    row = index.execute("SELECT format, photos, checkpoint, fingerprint FROM origin").fetchone()
    if row is None or row[0] != _FORMAT:
        raise InputError(
            f"{file}: not an index of this version; index again, to another file, or delete this one before"
        )
    return Origin(*map(str, row[1:]))


def _connect(file: Path, create: bool) -> sqlite3.Connection:
    try:
        # Read-write for reading too: SQLite then rolls back what a killed run left half done.
        mode = "rwc" if create else "rw"
        return sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True)
    except sqlite3.Error as error:
        raise InputError(f"{file}: cannot be opened ({error})") from error


@contextlib.contextmanager
def _as_input_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise InputError(f"{file}: not a readable index ({error})") from error

"""The index of a photo folder: one SQLite file with two embeddings a photo, brought up to date in transactions.

A killed run leaves the index as its last transaction left it, which is whole, and the next run continues there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from tqdm import tqdm

from cusa_jax.data.images import image_suffixes
from cusa_jax.data.pipeline import decoded_batches
from cusa_jax.data.sources import ImageFiles
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.models.dual_encoder import DualEncoder
from cusa_jax.types import Params

_FORMAT = "cusa_jax photo index 1"
Head = Literal["cross", "uni"]


@dataclasses.dataclass(frozen=True)
class Origin:
    """What an index is made of. photos: the folder. checkpoint: as the user named it. fingerprint: its model's."""

    photos: str
    checkpoint: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Updated:
    """What bringing an index up to date came to: numbers of photos, and one line for each that is unreadable."""

    encoded: int
    unchanged: int
    removed: int
    unreadable: list[str]


def fingerprint(model: DualEncoder, params: Params) -> str:
    """sha256 of everything that an embedding depends on: sizes, heads, precision, and every bit of the weights."""
    told = (model.clip, model.cross_heads, model.uni_heads, str(np.dtype(model.dtype)))
    digest = hashlib.sha256(repr(told).encode())
    for path, leaf in jax.tree.leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def update(file: Path, origin: Origin, encoder: Encoder, params: Params) -> Updated:
    """Makes `file` the index of all photos under `origin.photos`, encoding only those that are new or changed.

    A photo has changed if its size or modification time has. Photos that are gone or cannot be read are not in it.
    Raises InputError where there is no such folder, or `file` is no index, or one of other photos or another model.
    """
    found = dict(_photos(Path(origin.photos)))
    with contextlib.closing(_connect(file, create=True)) as index, _as_input_errors(file):
        _claim(index, file, origin)
        known = {
            name: (size, time) for name, size, time in index.execute("SELECT name, size, time FROM photos")
        }
        gone = known.keys() - found.keys()
        changed = [name for name, stat in found.items() if known.get(name) != stat]
        _replace(index, list(gone), [])
        unreadable: list[str] = []
        paths = [Path(origin.photos, os.fsdecode(name)) for name in changed]
        batches = decoded_batches(
            ImageFiles(paths), Pixels(encoder.image_size), batch_size=encoder.batch_size, on_bad_image="skip"
        )
        with contextlib.closing(batches), tqdm(total=len(paths), unit="photo", disable=not paths) as progress:
            for numbers, pixels, errors in batches:
                names = [changed[number] for number in numbers]
                embeddings = encoder.images(params, pixels) if names else ((), ())
                rows = [
                    (name, *found[name], cross.tobytes(), uni.tobytes())
                    for name, cross, uni in zip(names, *embeddings, strict=False)  # the batch may be padded
                ]
                done = changed[progress.n : progress.n + encoder.batch_size]
                _replace(index, done, rows)
                unreadable += errors
                progress.update(len(done))
    return Updated(len(changed) - len(unreadable), len(found) - len(changed), len(gone), unreadable)


def _replace(index: sqlite3.Connection, names: list[bytes], rows: list[tuple]) -> None:
    """In one transaction: `names` out, `rows` in."""
    with index:
        index.executemany("DELETE FROM photos WHERE name = ?", [(name,) for name in names])
        index.executemany("INSERT INTO photos VALUES (?, ?, ?, ?, ?)", rows)


def read(file: Path, head: Head) -> tuple[Origin, list[Path], np.ndarray]:
    """(origin, N photos in order of their names, embeddings of one head float32 [N, E]).

    Raises InputError for a file that is no index, a damaged one, or one without photos.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such index; `scripts/search.py index PHOTOS --out={file}` makes it")
    with contextlib.closing(_connect(file, create=False)) as index, _as_input_errors(file):
        origin = _origin(index, file)
        rows = index.execute(f"SELECT name, {head} FROM photos ORDER BY name").fetchall()
    if not rows:
        raise InputError(f"{file}: there are no photos in it")
    sound = all(isinstance(name, bytes) and isinstance(blob, bytes) for name, blob in rows)
    if not sound or len({len(blob) for _, blob in rows}) > 1 or len(rows[0][1]) % 4:
        raise InputError(f"{file}: damaged, its embeddings differ in size; delete it and index again")
    embeddings = np.frombuffer(b"".join(blob for _, blob in rows), np.float32).reshape(len(rows), -1)
    return origin, [Path(origin.photos, os.fsdecode(name)) for name, _ in rows], embeddings


def _photos(folder: Path) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """(name under the folder, (size, modification time in ns)) of every photo; links to folders are not followed.

    Names are bytes, for they need not be UTF-8.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of photos")
    suffixes = image_suffixes()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in suffixes:
                with contextlib.suppress(OSError):  # gone meanwhile, or a link to nowhere
                    stat = path.stat()
                    yield os.fsencode(path.relative_to(folder)), (stat.st_size, stat.st_mtime_ns)


def _claim(index: sqlite3.Connection, file: Path, origin: Origin) -> None:
    """Makes an empty file an index of this origin. Raises InputError where it is another's."""
    if not index.execute("SELECT 1 FROM sqlite_master").fetchone():
        with index:
            index.execute("BEGIN")
            index.execute("CREATE TABLE origin (format TEXT, photos TEXT, checkpoint TEXT, fingerprint TEXT)")
            index.execute(
                "CREATE TABLE photos (name BLOB PRIMARY KEY, size INTEGER, time INTEGER, cross BLOB, uni BLOB)"
            )
            index.execute("INSERT INTO origin VALUES (?, ?, ?, ?)", (_FORMAT, *dataclasses.astuple(origin)))
    theirs = _origin(index, file)
    if theirs.photos != origin.photos:
        raise InputError(f"{file}: is the index of {theirs.photos}; name another --out for {origin.photos}")
    check_model(file, theirs, origin.fingerprint, origin.checkpoint)


def check_model(file: Path, origin: Origin, found: str, checkpoint: str) -> None:
    """Raises InputError where the model of `checkpoint`, whose fingerprint is `found`, did not make the index."""
    if origin.fingerprint != found:
        raise InputError(
            f"{file}: was made with another model than {checkpoint} holds (then {origin.checkpoint}); "
            "embeddings of two models cannot be compared: index again, to another file"
        )


def _origin(index: sqlite3.Connection, file: Path) -> Origin:
    row = index.execute("SELECT format, photos, checkpoint, fingerprint FROM origin").fetchone()
    if row is None or row[0] != _FORMAT:
        raise InputError(f"{file}: not an index of this version; index again, to another file")
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

"""Brings the index of a photo folder up to date, in transactions: only what is new or changed is encoded.

A killed run leaves the index as its last transaction left it, which is whole, and the next run continues there. An
embedding that changed on the disk is made anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from cusa_jax.data.pipeline import decoded_batches
from cusa_jax.data.sources import ImageFiles
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.progress import progress
from cusa_jax.search.changes import gone_and_kept, is_moved
from cusa_jax.search.index import Origin, check_model, create, opened, origin_of, replace, row, sound
from cusa_jax.search.photos import State, find_photos
from cusa_jax.types import Params


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


def update(file: Path, origin: Origin, encoder: Encoder, params: Params, forget: bool = False) -> Updated:
    """Makes `file` the index of all photos under `origin.photos`, encoding only those that are new or changed.

    A photo has changed if its size or modification time has; one whose embedding is damaged counts as changed.
    Photos that are gone or cannot be read are not in it, those of folders that seem unmounted are (changes.py).
    forget: takes these out too. A folder that was moved is recognised by its photos.
    Raises InputError where there is no such folder, where it has no photos though the index has, as that of a drive
    that is not there, or `file` is no index, or one of other photos or another model.
    """
    photos = find_photos(Path(origin.photos))
    with opened(file, create=True) as index:
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
        replace(index, gone, [])
        unreadable = _encode(index, origin, photos.states, changed, encoder, params)
    unchanged, encoded = len(photos.states) - len(changed), len(changed) - len(unreadable)
    return Updated(encoded, unchanged, len(gone), unreadable, photos.left_out, len(kept))


def _known(index: sqlite3.Connection) -> dict[bytes, State | None]:
    """The photos in the index, and of which state; None where an embedding is damaged."""
    rows = index.execute("SELECT name, size, time, cross, uni, cross_sum, uni_sum FROM photos")
    return {
        name: (size, time) if sound(name, *embeddings) else None for name, size, time, *embeddings in rows
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
                row(names[number], states[names[number]], cross, uni)
                for number, cross, uni in zip(numbers, *embeddings, strict=False)
            ]
            done = names[bar.n : bar.n + encoder.batch_size]
            replace(index, done, rows)
            unreadable += errors
            bar.update(len(done))
    return unreadable


def _claim(
    index: sqlite3.Connection, file: Path, origin: Origin, found: Mapping[bytes, State]
) -> dict[bytes, State | None]:
    """What `_known` returns, after an empty file became an index of this origin, and one of a moved folder follows it.

    Raises InputError where it is another's.
    """
    if not index.execute("SELECT 1 FROM sqlite_master").fetchone():
        create(index, origin)
    theirs = origin_of(index, file)
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

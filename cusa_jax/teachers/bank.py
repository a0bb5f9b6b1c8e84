"""A bank: what a live teacher says of every training sample, computed once and kept on disk.

One folder per teacher:

    bank.json      the fingerprint of teacher files, samples and form, which must stay the same; the shape
    features.f32   float32 [N, D], row n the feature of sample n; NaN where it was not computed
    progress       samples finished so far; gone when the bank is complete

Samples that an unreadable image kept out stay NaN, and a training that looks one up stops at a loss that is NaN.

Before the first step, not in passing during the first epoch: an epoch shows every image once per caption, so that the
image teacher would run five times as often on five captions an image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from cusa_jax.distributed import is_first
from cusa_jax.errors import InputError
from cusa_jax.files import written_whole
from cusa_jax.teachers.folder import model_files
from cusa_jax.workdir import write_json

_FORMAT = 2  # raise when the same teacher and samples would be given other features
_RECORD, _FEATURES, _PROGRESS = "bank.json", "features.f32", "progress"
_BATCHES_BETWEEN_SAVES = 50

# How many samples are done -> (sample numbers int [b], features float [b, D]) of the others, always in one order.
Compute = Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]]


def bank_features(folder: Path, fingerprint: dict[str, Any], compute: Compute, *, samples: int) -> np.ndarray:
    """float32 [samples, D], mapped into memory; computed first where they are not yet.

    folder: on a file system that all processes see. fingerprint: of teacher and samples (`teacher_fingerprint`).
    compute: asked by all processes together; the first writes. A killed computation is continued.

    Raises InputError where the folder is another teacher's or other samples' bank, damaged, or cannot be written.
    """
    fingerprint = {"format": _FORMAT, **fingerprint}
    try:
        done = int(multihost_utils.broadcast_one_to_all(np.int32(_done(folder, fingerprint, samples))))
        if done < samples:
            _compute(folder, fingerprint, compute, samples, done)
        return _features(folder, "r")
    except OSError as error:
        raise InputError(f"{folder}: the bank cannot be read or written ({error})") from error


def teacher_fingerprint(path: Path, samples: Sequence[str], **options: Any) -> dict[str, Any]:
    """What decides a teacher's features: its files (weights, preprocessing, tokenizer, pooling), samples and options.

    path: the teacher's folder or file. samples: what tells them apart, in order: ids and file names of images (what
    is in the files is not looked at), or ids and cleaned captions.
    """
    files = hashlib.sha256()
    for file in model_files(path):
        with file.open("rb") as content:
            files.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    texts = hashlib.sha256(json.dumps(list(samples)).encode())
    return {"teacher_files": files.hexdigest(), "samples": texts.hexdigest(), **options}


def _done(folder: Path, fingerprint: dict[str, Any], samples: int) -> int:
    """How many samples are in the bank."""
    if not (folder / _RECORD).exists():
        return 0
    found = _record(folder)["fingerprint"]
    if differing := [key.replace("_", " ") for key in fingerprint if found.get(key) != fingerprint[key]]:
        raise InputError(
            f"{folder / _RECORD}: the bank was computed with other {', '.join(differing)}; name another "
            "config.teacher.bank, or delete this one to compute it again"
        )
    progress = folder / _PROGRESS
    try:
        return int(progress.read_text()) if progress.exists() else samples
    except ValueError as error:
        raise InputError(f"{progress}: not a number; delete {folder}") from error


def _compute(folder: Path, fingerprint: dict[str, Any], compute: Compute, samples: int, done: int) -> None:
    table = None
    with tqdm(
        total=samples, initial=done, unit=" samples", desc=f"{folder}", mininterval=1, disable=not is_first()
    ) as bar:
        for batch, (numbers, features) in enumerate(compute(done), start=1):
            if not is_first():
                continue
            if table is None:
                if not done:
                    _create(folder, fingerprint, (samples, features.shape[1]))
                table = _features(folder, "r+")
            table[numbers] = features
            done += len(numbers)
            bar.update(len(numbers))
            if batch % _BATCHES_BETWEEN_SAVES == 0:
                table.flush()
                _save_progress(folder, done)
    if is_first():
        if table is not None:
            table.flush()
        (folder / _PROGRESS).unlink(missing_ok=True)
    multihost_utils.sync_global_devices(f"bank {folder}")


def _create(folder: Path, fingerprint: dict[str, Any], shape: tuple[int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _save_progress(folder, 0)
    np.memmap(folder / _FEATURES, np.float32, "w+", shape=shape)[:] = np.nan
    write_json(folder / _RECORD, {"fingerprint": fingerprint, "shape": shape})


def _save_progress(folder: Path, done: int) -> None:
    with written_whole(folder / _PROGRESS) as fresh:
        fresh.write_text(str(done))


def _features(folder: Path, mode: Any) -> np.memmap:
    shape, path = tuple(_record(folder)["shape"]), folder / _FEATURES
    if path.stat().st_size != 4 * int(np.prod(shape)):  # 'r+' would fill up a file that was cut
        raise InputError(f"{path}: is not float32 {list(shape)}; delete {folder}")
    return np.memmap(path, np.float32, mode, shape=shape)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    try:
        value = json.loads(path.read_text())
        return {"fingerprint": dict(value["fingerprint"]), "shape": [int(n) for n in value["shape"]]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable record of a bank ({error!r}); delete {folder}") from error

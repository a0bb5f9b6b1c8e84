"""A bank: what a teacher says of every training sample, computed once and kept on disk.

One folder per teacher:

    bank.json      the fingerprint of teacher files, samples and form, which must stay the same; the shape
    features.f32   float32 [N, D], row n the feature of sample n
    progress       batches finished so far; gone when the bank is complete

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
from cusa_jax.teachers.folder import locate, model_files
from cusa_jax.workdir import write_json

_FORMAT = 1  # raise when the same teacher and samples would be given other features
_RECORD, _FEATURES, _PROGRESS = "bank.json", "features.f32", "progress"
_BATCHES_BETWEEN_SAVES = 50

# A batch to begin with -> (numbers of samples int [b], their features float [b, D]) of it and all that follow.
Compute = Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]]


def bank_features(folder: Path, fingerprint: dict[str, Any], compute: Compute, *, samples: int) -> np.ndarray:
    """float32 [samples, D], mapped into memory; computed first where they are not yet.

    folder: on a file system that all processes see. fingerprint: of teacher and samples (`teacher_fingerprint`).
    compute: asked by all processes together; the first writes. A killed computation is continued.

    Raises InputError where the folder is another teacher's or other samples' bank, or damaged.
    """
    fingerprint = {"format": _FORMAT, **fingerprint}
    record = folder / _RECORD
    if record.exists():
        _check(record, fingerprint)
    if not record.exists() or (folder / _PROGRESS).exists():
        _fill(folder, fingerprint, compute, samples)
    shape = tuple(_read(record)["shape"])
    try:
        return np.memmap(folder / _FEATURES, np.float32, "r", shape=shape)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder / _FEATURES}: is not {list(shape)} ({error}); delete {folder}") from error


def teacher_fingerprint(source: str, samples: Sequence[str], **options: Any) -> dict[str, Any]:
    """What decides a teacher's features: its files (weights, preprocessing, tokenizer, pooling), samples and options.

    source: as in the configuration. samples: the ids of images, or the cleaned captions, in order.
    """
    files = hashlib.sha256()
    for file in model_files(locate(source, ".pt")):
        with file.open("rb") as content:
            files.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    texts = hashlib.sha256(json.dumps(list(samples)).encode())
    return {"teacher_files": files.hexdigest(), "samples": texts.hexdigest(), **options}


def _fill(folder: Path, fingerprint: dict[str, Any], compute: Compute, samples: int) -> None:
    progress = folder / _PROGRESS
    done = int(progress.read_text()) if progress.exists() and (folder / _RECORD).exists() else 0
    done = int(multihost_utils.broadcast_one_to_all(np.int32(done)))
    writes = is_first()
    table = None
    with tqdm(total=samples, unit=" samples", desc=f"{folder}", mininterval=1, disable=not writes) as bar:
        for batch, (numbers, features) in enumerate(compute(done), start=done + 1):
            if not writes:
                continue
            if table is None:
                table = _open(folder, fingerprint, (samples, features.shape[1]), fresh=done == 0)
                bar.update(done * len(features))
                bar.initial = bar.n
            table[numbers] = features
            bar.update(len(numbers))
            if batch % _BATCHES_BETWEEN_SAVES == 0:
                table.flush()
                progress.write_text(str(batch))
    if writes:
        if table is not None:
            table.flush()
        progress.unlink(missing_ok=True)
    multihost_utils.sync_global_devices(f"bank {folder}")


def _open(folder: Path, fingerprint: dict[str, Any], shape: tuple[int, int], *, fresh: bool) -> np.memmap:
    if fresh:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _PROGRESS).write_text("0")
        write_json(folder / _RECORD, {"fingerprint": fingerprint, "shape": shape})
    return np.memmap(folder / _FEATURES, np.float32, "w+" if fresh else "r+", shape=shape)


def _check(record: Path, fingerprint: dict[str, Any]) -> None:
    found = _read(record)["fingerprint"]
    differing = [key.replace("_", " ") for key, value in fingerprint.items() if found.get(key) != value]
    if differing:
        raise InputError(
            f"{record}: the bank was computed with other {', '.join(differing)}; name another "
            "config.teacher.bank, or delete this one to compute it again"
        )


def _read(record: Path) -> dict[str, Any]:
    try:
        value = json.loads(record.read_text())
        return {"fingerprint": dict(value["fingerprint"]), "shape": [int(n) for n in value["shape"]]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{record}: not a readable record of a bank ({error!r}); delete {record.parent}"
        ) from error

"""A bank: a live teacher's features of every training sample, computed once and kept in a folder (`bank_files.py`).

Samples that an unreadable image kept out stay NaN, and a training that looks one up stops at a loss that is NaN.

The bank is computed before the first step, not in passing during the first epoch: an epoch shows every image once per
caption, so that the image teacher would run five times as often on five captions an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.distributed import from_first, is_first, wait_for_all
from cusa_jax.errors import InputError
from cusa_jax.lock import LOCK, held
from cusa_jax.progress import progress
from cusa_jax.teachers.bank_files import BankFeatures, BankWriter, Record, read_record
from cusa_jax.teachers.folder import model_files

# Raise when the same teacher and samples would be given other features, or the files change.
_FORMAT = 3
_BATCHES_BETWEEN_SAVES = 50

# How many samples are done -> (sample numbers int [b], features float [b, D]) of the others, always in one order.
Compute = Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]]


def bank_features(
    folder: Path, fingerprint: dict[str, Any], compute: Compute, *, samples: int
) -> BankFeatures:
    """The features float32 [samples, D] in a bank; computed first where they are not yet.

    folder: on a file system that all processes see. fingerprint: of teacher and samples (`teacher_fingerprint`).
    compute: called by all processes together; the first writes. A killed computation is continued.

    Raises InputError where the folder is another teacher's or other samples' bank, damaged, cannot be written, or
    where another run is computing it.
    """
    try:
        if computed(folder, fingerprint) < samples:
            with held(folder / LOCK, f"{folder}, the bank,"):
                # Another run may have computed some between the two questions.
                done = computed(folder, fingerprint)
                if done < samples:
                    _compute(folder, fingerprint, compute, samples, done)
        record = read_record(folder)
        assert record is not None
        return BankFeatures(folder, record.shape)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: the bank cannot be read or written ({error.strerror or error}); when it can, "
            "the same command continues"
        ) from error


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
    return {"format": _FORMAT, "teacher_files": files.hexdigest(), "samples": texts.hexdigest(), **options}


def computed(folder: Path, fingerprint: dict[str, Any]) -> int:
    """How many samples are in the bank, as the first process sees it; 0 where there is none.

    Raises InputError where it is another teacher's or other samples', or damaged.
    """
    record = read_record(folder)
    theirs = record.fingerprint if record else fingerprint
    if differing := [key.replace("_", " ") for key in fingerprint if theirs.get(key) != fingerprint[key]]:
        raise InputError(
            f"{folder / 'bank.json'}: the bank was computed with other {', '.join(differing)}; name another "
            "config.teacher.bank, or delete this one to compute it again"
        )
    return int(from_first(lambda: str(record.done if record else 0)))


def _compute(folder: Path, fingerprint: dict[str, Any], compute: Compute, samples: int, done: int) -> None:
    record = read_record(folder)
    bar = progress(total=samples, done=done, what=f"{folder}", unit="sample", shown=is_first())
    with bar, contextlib.ExitStack() as opened:
        writer = opened.enter_context(BankWriter(folder, record)) if record and is_first() else None
        for batch, (numbers, features) in enumerate(compute(done), start=1):
            if not is_first():
                continue
            if writer is None:
                fresh = Record(fingerprint, (samples, features.shape[1]), 0)
                writer = opened.enter_context(BankWriter(folder, fresh))
            writer.write(numbers, features)
            bar.update(len(numbers))
            if batch % _BATCHES_BETWEEN_SAVES == 0:
                writer.save()
        if writer is not None:
            writer.complete()
    wait_for_all(f"bank {folder}")

"""A bank: what a teacher says of every training sample, computed once and from then on looked up in the train step.

One folder per teacher:

    bank.json      the fingerprint of teacher files, samples and form, which must stay the same; the shape
    features.f32   float32 [N, D], row n the feature of sample n
    progress       batches finished so far; gone when the bank is complete

Before the first step, not in passing during the first epoch: an epoch shows every image once per caption, so that the
image teacher would run five times as often on five captions an image.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.scipy.fft import dct
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from cusa_jax import sharding
from cusa_jax.data.captions import CaptionTable
from cusa_jax.data.pipeline import image_batches
from cusa_jax.data.tokenize import text_length_bucket, text_lengths
from cusa_jax.distributed import is_first
from cusa_jax.errors import InputError
from cusa_jax.teachers.folder import locate, model_files
from cusa_jax.types import Params, Teacher
from cusa_jax.workdir import write_json

_FORMAT = 1  # raise when the same teacher and samples would be given other features
_RECORD, _FEATURES, _PROGRESS = "bank.json", "features.f32", "progress"
_BATCHES_BETWEEN_SAVES = 50
_AXES = ("data", "fsdp")

# A teacher and a batch to begin with -> (sample numbers int [b], what `apply` takes for batch_size >= b samples).
Inputs = Callable[[Teacher, int], Iterator[tuple[np.ndarray, Any]]]


def bank_teacher(
    folder: Path,
    fingerprint: dict[str, Any],
    load: Callable[[], Teacher],
    inputs: Inputs,
    mesh: Mesh,
    *,
    samples: int,
    width: int = 0,
    dtype: str = "float32",
) -> Teacher:
    """An 'index' teacher with the features of the teacher that `load` gives, computed first where they are not yet.

    folder: on a file system that all hosts see. fingerprint: of teacher and samples (`teacher_fingerprint`).
    samples: N. width: features with more numbers are projected to so many (`project`); 0 keeps them.
    dtype: in which the features lie on the devices, their rows split over all of them; they are looked up as float32.

    A killed computation is continued. Raises InputError where the folder is another teacher's or other samples'
    bank, or damaged.
    """
    fingerprint = {"format": _FORMAT, **fingerprint, "width": width}
    record = folder / _RECORD
    if record.exists():
        _check(record, fingerprint)
    if not record.exists() or (folder / _PROGRESS).exists():
        _compute(folder, fingerprint, load(), inputs, mesh, samples=samples, width=width)
    shape = tuple(_read(record)["shape"])
    try:
        features = np.memmap(folder / _FEATURES, np.float32, "r", shape=shape)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder / _FEATURES}: is not {list(shape)} ({error}); delete {folder}") from error
    return Teacher(
        name=f"bank {folder}",
        params={"features": _on_devices(features, mesh, dtype)},
        apply=lambda params, index: look_up(params["features"], index, mesh),
        inputs="index",
    )


def teacher_fingerprint(source: str, samples: Sequence[str], **options: Any) -> dict[str, Any]:
    """What decides a teacher's features: its files (weights, preprocessing, tokenizer, pooling), samples and options.

    source: as in the configuration. samples: the ids of images, or the cleaned captions, in order.
    """
    path = locate(source)
    files = hashlib.sha256()
    for file in model_files(path):
        with file.open("rb") as content:
            files.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    texts = hashlib.sha256(json.dumps(list(samples)).encode())
    return {"teacher_files": files.hexdigest(), "samples": texts.hexdigest(), **options}


def training_inputs(table: CaptionTable, captions: list[str], batch_size: int, **reading: Any) -> Inputs:
    """What any teacher takes of a split. captions: cleaned. reading: `workers` and `on_bad_image`, for pixels."""

    def batches(teacher: Teacher, first: int) -> Iterator[tuple[np.ndarray, Any]]:
        if teacher.inputs == "index":
            return _stored_rows(teacher.params["features"], batch_size, first)
        if teacher.inputs == "text":
            assert teacher.tokenize
            return _texts(teacher.tokenize(captions), batch_size, first)
        assert teacher.image_size
        size = teacher.image_size
        return image_batches(table, batch_size=batch_size, image_size=size, first_batch=first, **reading)

    return batches


def _stored_rows(features: np.ndarray, batch_size: int, first: int) -> Iterator[tuple[np.ndarray, Any]]:
    """The rows of a feature file, which only have to be projected."""
    for start in range(first * batch_size, len(features), batch_size):
        rows = features[start : start + batch_size].astype(np.float32)
        yield np.arange(start, start + len(rows)), _fill(rows, batch_size)


def _texts(text: dict[str, np.ndarray], batch_size: int, first: int) -> Iterator[tuple[np.ndarray, Any]]:
    """In order of length, the longest first: little padding, few shapes to compile, and memory known at once."""
    lengths = text_lengths(text["attention_mask"])
    order = np.argsort(-lengths, kind="stable")
    for start in range(first * batch_size, len(order), batch_size):
        rows = order[start : start + batch_size]
        cut = text_length_bucket(lengths[rows])
        yield rows, {key: _fill(ids[rows, :cut], batch_size) for key, ids in text.items()}


def project(features: jax.Array, width: int) -> jax.Array:
    """Random projection of [B, D] to [B, width] that keeps inner products: unbiased, and exact at width = D.

    A subsampled randomised cosine transform, √(D/width) · R C S x: random signs S, orthonormal DCT C, `width` random
    rows R (Halko, Martinsson and Tropp 2011, §4.6, with the DCT for the Fourier transform). The cosine of two
    features that is ρ gets an error of standard deviation about (1 - ρ²) √((1 - width/D) / width).
    """
    dim = features.shape[-1]
    sign_key, row_key = jax.random.split(jax.random.key(0))
    rows = jax.random.permutation(row_key, dim)[:width]
    mixed = dct(features * jax.random.rademacher(sign_key, (dim,), features.dtype), norm="ortho")
    return mixed[:, rows] * jnp.sqrt(dim / width).astype(features.dtype)


def look_up(table: jax.Array, index: jax.Array, mesh: Mesh) -> jax.Array:
    """Rows float32 [B, D] of a table [N, D] for index int [B], all split by rows over the mesh.

    No device sees the whole table: each gives the rows that it has, zeros for the others, and the sums are exact.
    """

    def local(table: jax.Array, index: jax.Array) -> jax.Array:
        index = jax.lax.all_gather(index, _AXES, tiled=True) - jax.lax.axis_index(_AXES) * len(table)
        mine = (index >= 0) & (index < len(table))
        rows = jnp.where(mine[:, None], table[jnp.where(mine, index, 0)].astype(jnp.float32), 0)
        return jax.lax.psum_scatter(rows, _AXES, tiled=True)

    split = P(_AXES)
    return jax.shard_map(local, mesh=mesh, in_specs=(split, split), out_specs=split)(table, index)


def _compute(
    folder: Path,
    fingerprint: dict[str, Any],
    teacher: Teacher,
    inputs: Inputs,
    mesh: Mesh,
    *,
    samples: int,
    width: int,
) -> None:
    """Computes what is missing, all devices together; the first process writes."""

    @jax.jit
    def encode(params: Params, batch: Any) -> jax.Array:
        features = batch if teacher.inputs == "index" else teacher.apply(params, batch)
        return project(features, width) if 0 < width < features.shape[-1] else features

    params = None if teacher.inputs == "index" else sharding.put_params(teacher.params, mesh)
    progress = folder / _PROGRESS
    done = int(progress.read_text()) if progress.exists() and (folder / _RECORD).exists() else 0
    done = int(multihost_utils.broadcast_one_to_all(np.int32(done)))
    writes = is_first()
    table = None
    with tqdm(total=samples, unit=" samples", desc=f"{folder}", mininterval=1, disable=not writes) as bar:
        for batch, (numbers, batch_inputs) in enumerate(inputs(teacher, done), start=done + 1):
            rows = jax.tree.map(functools.partial(sharding.put_rows, mesh=mesh), batch_inputs)
            features = sharding.fetch(encode(params, rows))[: len(numbers)]
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


def _on_devices(features: np.ndarray, mesh: Mesh, dtype: str) -> jax.Array:
    """[N, D] on the mesh, rows split over it and padded with zeros to a number that it divides."""
    rows = sharding.round_up(len(features), mesh.size)

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        found = features[start:stop].astype(jnp.dtype(dtype))
        return np.pad(found, ((0, stop - start - len(found)), (0, 0)))

    shape = (rows, features.shape[1])
    return jax.make_array_from_callback(shape, sharding.batch_sharding(mesh), part)


def _fill(rows: np.ndarray, batch_size: int) -> np.ndarray:
    return np.resize(rows, (batch_size, *rows.shape[1:]))


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

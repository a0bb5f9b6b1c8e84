"""Batches for training and evaluation, decoded ahead of the device by grain.

The rows of a batch are a function of (seed, step) and of nothing else: not of the number of loader workers,
nor of where a run was stopped and resumed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Iterator
from typing import Any

import grain
import numpy as np
from absl import logging

from cusa_jax.data.augment import NONE, Augmentation
from cusa_jax.data.loader import BatchLoader
from cusa_jax.data.order import partners
from cusa_jax.data.prefetch import OnBadImage, decode_all, prefetched, threads_per_worker
from cusa_jax.data.sources import ImageSource
from cusa_jax.data.splits import Split
from cusa_jax.errors import InputError
from cusa_jax.inputs import ImageInputs, Inputs, Pixels
from cusa_jax.types import Batch

_ENDLESS = 2**62  # steps


def train_batches(
    split: Split,
    inputs: Inputs,
    *,
    batch_size: int,
    seed: int,
    teacher_image: Pixels | None = None,
    teacher_text: dict[str, np.ndarray] | None = None,
    shuffled: bool = False,
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    cut_text: bool = True,
    augmentation: Augmentation = NONE,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchIterator:
    """Endless batches of numpy arrays: this process's slice of every global batch.

    Args:
      split: the training split, N captions with their tokens for the student.
      inputs: of the student.
      batch_size: rows of the global batch; a remainder of each epoch is dropped.
      teacher_image: what a live image teacher is given; batches hold it where it is not what the student sees.
      teacher_text: {'input_ids', 'attention_mask'} int32 [N, L'] for a live text teacher.
      shuffled: shows the teachers another image and another caption, the same ones all run long.
      workers: loader processes; 0 decodes in threads of this one.
      on_bad_image: 'skip' takes, for a caption whose image is unreadable, the next one in the table.
      cut_text: cut padding to the longest text of the global batch, student's or teacher's, in buckets
        (`text_length_bucket`); the student's only where its inputs allow it.
      augmentation: of the images, for the student and a live teacher alike; not of records, which hold plain pixels.

    Raises:
      InputError: batch sizes do not fit, or regions are to be augmented; while iterating: an unreadable
        image, or with 'skip' all of them.
    """
    if batch_size % process_count:
        raise InputError(f"batch_size {batch_size} must be a multiple of the {process_count} processes")
    if steps_per_epoch(split, batch_size) == 0:
        raise InputError(f"batch_size {batch_size} exceeds the {len(split.captions)} captions of the split")
    if augmentation.changes and not isinstance(inputs.image, Pixels):
        raise InputError(
            "config.data.crop and flip change pictures, and the model takes features of regions; set crop=1, flip=false"
        )
    if teacher_image and teacher_image.on_host == inputs.image.on_host and not shuffled:
        teacher_image = None
    loader = BatchLoader(
        images=split.images,
        caption_image=split.table.caption_image,
        tokens=split.tokens,
        teacher_text=teacher_text,
        teacher_partner=partners(len(split.images), (seed, 0), shuffled),
        teacher_caption=partners(len(split.captions), (seed, 1), shuffled),
        inputs=inputs,
        teacher_image=teacher_image,
        batch_size=batch_size,
        seed=seed,
        local_rows=slice(*(batch_size * i // process_count for i in (process_index, process_index + 1))),
        on_bad_image=on_bad_image,
        cut_text=cut_text,
        threads=threads_per_worker(workers),
        augmentation=augmentation,
    )
    return BatchIterator(loader, workers)


def image_batches(
    images: ImageSource,
    spec: ImageInputs,
    *,
    batch_size: int,
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    first: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every image once, in order: (image numbers int32 [b], images as `spec` [batch_size, …]).

    first: the number of the image to begin with.
    b is batch_size but for the last batch and for unreadable images, which 'skip' leaves out and reports;
    the images are then padded by repetition, so that one compiled function serves all batches.
    """
    errors = list[str]()
    batches = decoded_batches(
        images, spec, batch_size=batch_size, workers=workers, on_bad_image=on_bad_image, first=first
    )
    with contextlib.closing(batches):
        for numbers, rows, batch_errors in batches:
            errors += batch_errors
            if len(numbers):
                yield numbers, rows
    if errors and len(errors) == len(images):
        raise InputError(f"all {len(images)} images are unreadable; the first: {errors[0]}")
    if errors:
        logging.warning("%d unreadable images left out: %s", len(errors), "; ".join(errors[:5]))


def decoded_batches(
    images: ImageSource,
    spec: ImageInputs,
    *,
    batch_size: int,
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    first: int = 0,
) -> Generator[tuple[np.ndarray, np.ndarray, list[str]], None, None]:
    """As `image_batches`, with what is wrong with the others, and also batches of which none is left."""
    load = functools.partial(
        _load_images,
        images,
        spec,
        range(first, len(images)),
        batch_size,
        on_bad_image,
        threads_per_worker(workers),
    )
    steps = range(-(-(len(images) - first) // batch_size))
    with contextlib.closing(prefetched(load, steps, workers)) as batches:
        yield from batches


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Full batches in one pass over the captions."""
    return len(split.captions) // batch_size


class BatchIterator(grain.DatasetIterator[Batch]):
    """`train_batches`, checkpointable by `grain.checkpoint`.

    The state is the step alone, where grain's own would hold one state per worker: a run may resume with
    another number of workers.
    """

    def __init__(self, loader: BatchLoader, workers: int) -> None:
        super().__init__()
        self._loader, self._workers = loader, workers
        self._reported: set[str] = set()
        self._start(0)

    def __next__(self) -> Batch:
        batch, errors = next(self._batches)
        self._step += 1
        for error in errors:
            if error not in self._reported:
                logging.warning("skipped: %s", error)
                self._reported.add(error)
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.close()
        self._start(state["step"])

    def start_prefetch(self) -> None:
        self._batches.start_prefetch()

    def close(self) -> None:
        """Stop the loader threads and processes."""
        self._batches.close()

    def _start(self, step: int) -> None:
        self._step = step
        self._batches = prefetched(self._loader, range(step, _ENDLESS), self._workers)


def _load_images(
    images: ImageSource,
    spec: ImageInputs,
    numbers: range,
    batch_size: int,
    on_bad_image: OnBadImage,
    threads: int,
    batch: int,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Batch number -> numbers and padded rows of the readable images, and what is wrong with the others."""
    wanted = numbers[batch * batch_size : (batch + 1) * batch_size]
    rows = np.empty((len(wanted), *spec.shape), spec.dtype)

    def load(image: int) -> None:
        rows[image - wanted.start] = images.read(image, spec)[0]

    results = decode_all(load, wanted, on_bad_image, threads)
    errors = [str(error) for error in results.values() if error]
    readable = np.array([image for image, error in results.items() if not error], np.int32)
    if 0 < len(readable) < batch_size:
        rows = np.resize(rows[readable - wanted.start], (batch_size, *spec.shape))
    return readable, rows, errors

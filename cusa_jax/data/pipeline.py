"""Batches for training and evaluation, decoded ahead of the device by grain.

The rows of a batch are a function of (seed, step) and of nothing else: not of the number of loader workers,
nor of where a run was stopped and resumed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Generator, Iterator
from typing import Any

import grain
import numpy as np
from absl import logging

from cusa_jax.data.captions import CaptionTable
from cusa_jax.data.images import ImageReader
from cusa_jax.data.prefetch import OnBadImage, decode_all, prefetched, threads_per_worker
from cusa_jax.data.tokenize import text_length_bucket, text_lengths
from cusa_jax.errors import InputError
from cusa_jax.types import Batch, Teachers

_ENDLESS = 2**62  # steps


def train_batches(
    table: CaptionTable,
    *,
    batch_size: int,
    seed: int,
    image_size: int,
    tokens: np.ndarray,
    teachers: Teachers | None = None,
    teacher_text: dict[str, np.ndarray] | None = None,
    shuffled: bool = False,
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    cut_text: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchIterator:
    """Endless batches of numpy arrays: this process's slice of every global batch.

    Args:
      table: the training split, N captions.
      batch_size: rows of the global batch; a remainder of each epoch is dropped.
      tokens: int32 [N, L], student tokens of the captions.
      teachers: None without teachers. A 'pixels' image teacher of another size gets its own pixels.
      teacher_text: {'input_ids', 'attention_mask'} int32 [N, L'] for a live text teacher.
      shuffled: shows the teachers another image and another caption, the same ones all run long.
      workers: loader processes; 0 decodes in threads of this one.
      on_bad_image: 'skip' takes, for a caption whose image is unreadable, the next one in the table.
      cut_text: cut padding to the longest text of the global batch, student's or teacher's, in buckets
        (`text_length_bucket`).

    Raises:
      InputError: batch sizes do not fit; while iterating: an unreadable image, or with 'skip' all of them.
    """
    if batch_size % process_count:
        raise InputError(f"batch_size {batch_size} must be a multiple of the {process_count} processes")
    if steps_per_epoch(table, batch_size) == 0:
        raise InputError(f"batch_size {batch_size} exceeds the {len(table.captions)} captions of the split")
    teacher_image_size = teachers.image.image.size if teachers and teachers.image.image else None
    if teacher_image_size == image_size and not shuffled:
        teacher_image_size = None  # it sees what the student sees
    loader = _BatchLoader(
        read_image=table.read_image,
        caption_image=table.caption_image,
        tokens=tokens,
        teacher_text=teacher_text,
        teacher_image=_partners(len(table.image_paths), (seed, 0), shuffled),
        teacher_caption=_partners(len(table.captions), (seed, 1), shuffled),
        image_size=image_size,
        teacher_image_size=teacher_image_size,
        batch_size=batch_size,
        seed=seed,
        local_rows=slice(*(batch_size * i // process_count for i in (process_index, process_index + 1))),
        on_bad_image=on_bad_image,
        cut_text=cut_text,
        threads=threads_per_worker(workers),
    )
    return BatchIterator(loader, workers)


def image_batches(
    table: CaptionTable,
    *,
    batch_size: int,
    image_size: int,
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    first: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every image once, in order: (image numbers int32 [b], pixels uint8 [batch_size, size, size, 3]).

    first: the number of the image to begin with.
    b is batch_size but for the last batch and for unreadable images, which 'skip' leaves out and reports;
    the pixels are then padded by repetition, so that one compiled function serves all batches.
    """
    count, errors = len(table.image_paths), list[str]()
    batches = decoded_batches(
        table.read_image, count, batch_size=batch_size, image_size=image_size, workers=workers,
        on_bad_image=on_bad_image, first=first,
    )  # fmt: skip
    with contextlib.closing(batches):
        for numbers, pixels, batch_errors in batches:
            errors += batch_errors
            if len(numbers):
                yield numbers, pixels
    if len(errors) == count:
        raise InputError(f"all {count} images are unreadable; the first: {errors[0]}")
    if errors:
        logging.warning("%d unreadable images left out: %s", len(errors), "; ".join(errors[:5]))


def decoded_batches(
    read_image: ImageReader,
    count: int,
    *,
    batch_size: int,
    image_size: int,
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    first: int = 0,
) -> Generator[tuple[np.ndarray, np.ndarray, list[str]], None, None]:
    """As `image_batches`, of any images: (numbers, pixels, what is wrong with the others), also where none is left."""
    load = functools.partial(
        _load_images,
        read_image,
        range(first, count),
        batch_size,
        image_size,
        on_bad_image,
        threads_per_worker(workers),
    )
    steps = range(-(-(count - first) // batch_size))
    with contextlib.closing(prefetched(load, steps, workers)) as batches:
        yield from batches


def steps_per_epoch(table: CaptionTable, batch_size: int) -> int:
    """Full batches in one pass over the captions."""
    return len(table.captions) // batch_size


def batch_rows(step: int, *, rows: int, batch_size: int, seed: int) -> np.ndarray:
    """Caption rows of the global batch at `step`, int64 [batch_size]; every epoch is a new permutation."""
    epoch, batch = divmod(step, rows // batch_size)
    return _permutation(rows, seed, epoch)[batch * batch_size : (batch + 1) * batch_size]


def derangement(count: int, seed: tuple[int, ...]) -> np.ndarray:
    """A random cyclic permutation, int32 [count]: no element stays in its place (for count > 1)."""
    cycle = np.random.default_rng(seed).permutation(count).astype(np.int32)
    partner = np.empty(count, np.int32)
    partner[cycle] = np.roll(cycle, 1)
    return partner


def _partners(count: int, seed: tuple[int, ...], shuffled: bool) -> np.ndarray:
    return derangement(count, seed) if shuffled else np.arange(count, dtype=np.int32)


class BatchIterator(grain.DatasetIterator[Batch]):
    """`train_batches`, checkpointable by `grain.checkpoint`.

    The state is the step alone, where grain's own would hold one state per worker: a run may resume with
    another number of workers.
    """

    def __init__(self, loader: _BatchLoader, workers: int) -> None:
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


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class _BatchLoader:
    """Step -> this process's rows, and what was unreadable. Sent to the loader processes.

    teacher_image, teacher_caption: int32, the image and the caption the teachers see in the place of each.
    teacher_image_size: None where the image teacher needs no pixels of its own.
    """

    read_image: ImageReader
    caption_image: np.ndarray
    tokens: np.ndarray
    teacher_text: dict[str, np.ndarray] | None
    teacher_image: np.ndarray
    teacher_caption: np.ndarray
    image_size: int
    teacher_image_size: int | None
    batch_size: int
    seed: int
    local_rows: slice
    on_bad_image: OnBadImage
    cut_text: bool
    threads: int

    def __call__(self, step: int) -> tuple[Batch, list[str]]:
        planned = batch_rows(step, rows=len(self.tokens), batch_size=self.batch_size, seed=self.seed)
        width = self._width(planned)
        mine = planned[self.local_rows]
        sizes = [self.image_size, *([self.teacher_image_size] if self.teacher_image_size else [])]
        pixels = [np.empty((len(mine), size, size, 3), np.uint8) for size in sizes]
        kept, errors = self._read(pixels, mine, width)
        images, teacher_rows = self.caption_image[kept], self.teacher_caption[kept]
        batch = Batch(
            image=pixels[0],
            tokens=self.tokens[kept, :width],
            image_index=images,
            caption_index=kept,
            teacher_index_image=self.teacher_image[images],
            teacher_index_text=teacher_rows,
            teacher_image=pixels[1] if self.teacher_image_size else None,
            teacher_text={key: ids[teacher_rows, :width] for key, ids in self.teacher_text.items()}
            if self.teacher_text
            else None,
            replaced=kept != mine if self.on_bad_image == "skip" else None,
        )
        return batch, errors

    def _width(self, rows: np.ndarray) -> int:
        """Tokens that all texts of a global batch are cut to: every process compiles the same shapes.

        One width for student and teacher, so that there are as many shapes as buckets, not as pairs of them.
        """
        texts = [self.tokens[rows], *([self._teacher_mask(rows)] if self.teacher_text else [])]
        if not self.cut_text:
            return max(ids.shape[1] for ids in texts)
        return text_length_bucket(np.concatenate([text_lengths(ids) for ids in texts]))

    def _teacher_mask(self, captions: np.ndarray | int) -> np.ndarray:
        """Attention mask int32 [..., L'] of what the text teacher sees in the place of `captions`."""
        assert self.teacher_text
        return self.teacher_text["attention_mask"][self.teacher_caption[captions]]

    def _read(
        self, pixels: list[np.ndarray], planned: np.ndarray, width: int
    ) -> tuple[np.ndarray, list[str]]:
        """Fills `pixels`, decoding each image once. Returns the caption rows int32 [B] that are in it, and errors.

        In the place of a row whose image is unreadable comes the next one, cyclically, that is usable.
        """
        rows, errors = planned.astype(np.int32), dict[int, InputError]()
        missing = np.ones(len(rows), bool)
        while missing.any():
            images = self.caption_image[rows]
            decode = functools.partial(self._decode, pixels, images)
            wanted = np.unique(images[missing]).tolist()
            results = decode_all(decode, wanted, self.on_bad_image, self.threads)
            errors |= {image: error for image, error in results.items() if error}
            missing = np.isin(images, list(errors))
            rows[missing] = [self._next_usable(row, width, errors) for row in rows[missing].tolist()]
        return rows, [str(error) for error in errors.values()]

    def _next_usable(self, row: int, width: int, errors: dict[int, InputError]) -> int:
        """The first row from `row` on whose image is not known to be unreadable and whose texts fit the width."""
        for candidate in itertools.chain(range(row, len(self.tokens)), range(row)):
            if self.caption_image[candidate] in errors or self.tokens[candidate, width:].any():
                continue
            if self.teacher_text and self._teacher_mask(candidate)[width:].any():
                continue
            return candidate
        first = next(iter(errors.values()))
        raise InputError(f"no caption left whose image can be read; the first error: {first}")

    def _decode(self, pixels: list[np.ndarray], images: np.ndarray, image: int) -> None:
        """Writes an image to every place of it in `images`, at once: what is still in the cache copies fast."""
        for batch, decoded in zip(pixels, self._pixels(image), strict=True):
            batch[images == image] = decoded

    def _pixels(self, image: int) -> list[np.ndarray]:
        """What the student sees and, where it needs pixels of its own, the image teacher."""
        if self.teacher_image_size is None:
            return self.read_image(image, self.image_size)
        if (partner := int(self.teacher_image[image])) == image:
            return self.read_image(image, self.image_size, self.teacher_image_size)
        return [
            *self.read_image(image, self.image_size),
            *self.read_image(partner, self.teacher_image_size),
        ]


def _load_images(
    read_image: ImageReader,
    numbers: range,
    batch_size: int,
    size: int,
    on_bad_image: OnBadImage,
    threads: int,
    batch: int,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Batch number -> numbers and padded pixels of the readable images, and what is wrong with the others."""
    wanted = numbers[batch * batch_size : (batch + 1) * batch_size]
    pixels = np.empty((len(wanted), size, size, 3), np.uint8)

    def load(image: int) -> None:
        pixels[image - wanted.start] = read_image(image, size)[0]

    results = decode_all(load, wanted, on_bad_image, threads)
    errors = [str(error) for error in results.values() if error]
    readable = np.array([image for image, error in results.items() if not error], np.int32)
    if 0 < len(readable) < batch_size:
        pixels = np.resize(pixels[readable - wanted.start], (batch_size, size, size, 3))
    return readable, pixels, errors


@functools.lru_cache(maxsize=2)
def _permutation(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)

"""Loading ahead of the device: grain's worker processes, and threads that decode within a batch."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import grain

from cusa_jax.errors import InputError, UnreadableImage

T = TypeVar("T")
OnBadImage = Literal["error", "skip"]


def threads_per_worker(workers: int) -> int:
    """Decoding threads that keep all cores busy, with `workers` processes or (0) in this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, workers))


def prefetched(load: Callable[[int], T], steps: range, workers: int) -> grain.DatasetIterator[T]:
    """`load` of each step, in order and ahead of time, in one background thread or in `workers` processes.

    Worker processes read absl's flags: parse them first (`absl.app.run` does).
    """
    dataset = grain.MapDataset.range(steps.start, steps.stop).map(load)
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_exit_with_parent)
    return iter(dataset)


def decode_all(
    load: Callable[[int], T], images: Sequence[int], on_bad_image: OnBadImage, threads: int
) -> dict[int, T | InputError]:
    """`load` of every image, in threads (Pillow releases the GIL); with 'skip', an error takes its place."""

    def attempt_all(part: Sequence[int]) -> None:
        for image in part:
            try:
                results[image] = load(image)
            except InputError as error:
                if on_bad_image == "error":
                    raise
                results[image] = error

    # One task per thread: a task per image would cost more than reading a prepared image does.
    results: dict[int, Any] = dict.fromkeys(images)  # in their order
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda first: attempt_all(images[first::threads]), range(threads)))
    return results


@contextlib.contextmanager
def way_out() -> Iterator[None]:
    """An unreadable image that stops a training says how it goes on without."""
    try:
        yield
    except UnreadableImage as error:
        raise InputError(f"{error}; mend it, or leave out such images: data.on_bad_image=skip") from error


def _exit_with_parent(worker: int, workers: int) -> None:
    """A loader process would outlive a trainer that is killed, and hold its pipes open. Ctrl-C is the trainer's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    del worker, workers
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""One run in several processes, one per host: how they meet, and how they agree to stop.

The same config and command run everywhere. Process 0 writes what is written once; Orbax writes each process's part
of a checkpoint, so that the workdir has to be on storage that all of them share.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from cusa_jax.errors import InputError


def start(coordinator: str, processes: int | None, process_id: int | None) -> None:
    """Joins the other processes; returns when all are there. Call it before anything else touches a device.

    coordinator: HOST:PORT of process 0, 'auto' to take everything from SLURM, Open MPI or a TPU slice's own
    environment, or '' for a run of one process.
    """
    if not coordinator:
        return
    address = None if coordinator == "auto" else coordinator
    try:
        # A process that fails leaves soon, instead of waiting five minutes for the others to be done.
        jax.distributed.initialize(address, processes, process_id, shutdown_timeout_seconds=20)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--coordinator={coordinator}: cannot start ({reason}); outside SLURM, Open MPI and TPU slices give "
            "--coordinator=HOST:PORT --processes=N --process_id=K"
        ) from error
    if jax.process_index():
        logging.set_verbosity(logging.ERROR)  # one process tells what all of them see


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def all_agree(here: bool) -> bool:
    """Whether `here` is true in every process."""
    return here if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(here)).all())


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Yields a function of the step: did SIGTERM or SIGINT come? A second one of them interrupts at once.

    With several processes, a SIGTERM to any of them; all get the same answer at the same step.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    received: list[int] = []

    def remember(number: int, _frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    former = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda _step: bool(received)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)

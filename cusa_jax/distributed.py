"""One run in several processes, one per host: how they meet, and how they agree.

The same config and command run everywhere. Process 0 writes what is written once; Orbax writes each process's part
of a checkpoint, so that the workdir has to be on storage that all of them share.

Processes wait for each other at JAX's coordination service, not in a collective: a collective gives up after
half a minute on CPUs, and processes that compile, read or are loaded differently can be much further apart. One that
dies is noticed by the service, which ends the others.
"""

import contextlib
import functools
import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging
from jax._src import distributed as coordination  # the service's client has no public name
from jax.experimental import multihost_utils

from cusa_jax.errors import InputError

_PATIENCE = 24 * 3600 * 1000  # milliseconds in which every process arrives
_meetings = itertools.count()  # every process comes to the same ones, in the same order


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
    return not _is_several() or jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    if _is_several():
        _client().wait_at_barrier(_meeting(what), _PATIENCE)


def all_agree(here: bool) -> bool:
    """Whether `here` is true in every process."""
    if not _is_several():
        return here
    meeting, client = _meeting("all agree"), _client()
    client.key_value_set(f"{meeting}/{jax.process_index()}", str(int(here)))
    client.wait_at_barrier(f"{meeting} is known", _PATIENCE)
    return all(answer == "1" for _, answer in client.key_value_dir_get(meeting))


def from_first(text: Callable[[], str]) -> str:
    """What `text` returns in the first process, which alone calls it."""
    if not _is_several():
        return text()
    meeting = _meeting("from the first")
    if is_first():
        _client().key_value_set(meeting, text())
    return _client().blocking_key_value_get(meeting, _PATIENCE)


def together(function: Any) -> Any:
    """A jitted function that no process runs before every one has compiled it, whenever it is given new shapes."""
    compiled: dict[Any, Any] = {}

    @functools.wraps(function)
    def meet_and_call(*arguments: Any) -> Any:
        if not _is_several():
            return function(*arguments)
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
        if key not in compiled:
            compiled[key] = function.lower(*arguments).compile()
            wait_for_all("compiled")
        return compiled[key](*arguments)

    return meet_and_call


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Yields a function of the step: did SIGTERM or SIGINT come? A second one of them interrupts at once.

    With several processes, a SIGTERM to any of them; all get the same answer at the same step.
    """
    if _is_several():
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


def _is_several() -> bool:
    """Whether the run has several processes; asking for it does not touch a device where it has not."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def _client() -> Any:
    return coordination.global_state.client


def _meeting(what: str) -> str:
    return f"cusa_jax/{next(_meetings)}/{what}"

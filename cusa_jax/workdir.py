"""The folder of a run: config.json says whose it is, results.json that it is finished, a lock that it is in use."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cusa_jax.config import flat, from_values
from cusa_jax.distributed import from_first, is_first, wait_for_all
from cusa_jax.errors import Diverged, InputError
from cusa_jax.files import write_refusal
from cusa_jax.jsonfile import read_json, write_json
from cusa_jax.lock import LOCK, check_free, held

CONFIG = "config.json"
RESULTS = "results.json"
REPORT = "report.html"
COMPILED = "compiled"

# Keys that change how a run is carried out but not what it computes: they may differ when it is continued.
# Data that were moved are recognised by what is in them (see train.py).
FREE_KEYS = (
    "data.path", "data.image_root", "data.on_bad_image", "data.workers", "eval.batch_size", "log.every_steps",
    "checkpoint.every_steps", "checkpoint.keep", "sharding.fsdp", "compiled",
)  # fmt: skip
# May only grow: a run goes on, from where it is, under the schedule of the new number.
EPOCHS = "schedule.epochs"


def check_owner(workdir: Path, config: Mapping[str, Any]) -> None:
    """Raises InputError where a training is in `workdir`, or naming the keys where it is another configuration's.

    config: the settings as nested mappings.
    """
    check_free(workdir / LOCK, str(workdir))
    if refusal := _of_another(workdir, config):
        raise InputError(refusal)


def _of_another(workdir: Path, config: Mapping[str, Any]) -> str:
    """Why `config` may not train in `workdir`, or ''."""
    path = workdir / CONFIG
    if path.exists() and (differing := differences(read_json(path), config, path)):
        return (
            f"{workdir} belongs to another configuration ({differing}); choose another --workdir, or delete it to "
            "start over"
        )
    return ""


def differences(theirs: Any, ours: Mapping[str, Any], where: Path) -> str:
    """Which keys make two configurations two runs, as 'key old -> new; …', or ''. `ours` may have more epochs.

    theirs: as it was read from `where`; keys that did not exist when it was written have their defaults.
    """
    old, new = flat(from_values(theirs, where)), flat(ours)
    free = {*FREE_KEYS, EPOCHS} if new[EPOCHS] > old[EPOCHS] else FREE_KEYS
    differing = [key for key in sorted(new) if old[key] != new[key] and key not in free]
    said = [f"{key} {old[key]!r:.80} -> {new[key]!r:.80}" for key in differing[:4]]
    return "; ".join(said) + ("; …" if len(differing) > 4 else "")


def more_epochs(workdir: Path, config: Mapping[str, Any]) -> int:
    """How many epochs fewer than `config` the run in `workdir` was asked for: 0 where it is the same run.

    Raises InputError where config.json cannot be read.
    """
    before = flat(from_values(read_json(workdir / CONFIG), workdir / CONFIG))[EPOCHS]
    return flat(config)[EPOCHS] - before


@contextlib.contextmanager
def claimed(workdir: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Makes `workdir` this configuration's, and keeps other trainings out of it for as long as the context lasts.

    The results of a run that is asked for more epochs are kept under another name.

    Raises InputError where another training is in it, where it is another configuration's or cannot be written to,
    and where, later on, the disk takes no more or the folder is gone.
    """
    wait_for_all("every process has compared configurations")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_write_errors(workdir))
        stack.enter_context(held(workdir / LOCK, str(workdir)))
        # Another training may have come and gone since `check_owner` looked.
        if refusal := from_first(lambda: _of_another(workdir, config)):
            raise InputError(refusal)
        if is_first():
            try:
                _set_results_aside(workdir, config)
                write_json(workdir / CONFIG, config)
            except OSError as error:
                raise InputError(f"--workdir={workdir}: {error.strerror}") from error
        # Orbax begins with a collective.
        wait_for_all("the folder is claimed")
        yield


def _set_results_aside(workdir: Path, config: Mapping[str, Any]) -> None:
    """Renames what a finished run of fewer epochs ended with."""
    if not (workdir / RESULTS).exists() or not (more := more_epochs(workdir, config)):
        return
    for name in (REPORT, RESULTS):
        if (path := workdir / name).exists():
            path.rename(path.with_stem(f"{path.stem}_of_{flat(config)[EPOCHS] - more}_epochs"))


@contextlib.contextmanager
def _write_errors(workdir: Path) -> Iterator[None]:
    """What Orbax, TensorStore, TensorBoard and Python raise where `workdir` takes no more, as one InputError."""
    try:
        yield
    except (InputError, Diverged):
        raise
    except Exception as error:
        if not (workdir / CONFIG).is_file():
            raise InputError(f"{workdir}: the folder was removed while the training ran") from error
        if not (reason := write_refusal(error)):
            raise
        raise InputError(
            f"{workdir}: cannot be written to ({reason}); what was saved last is kept, and the same command continues"
        ) from error

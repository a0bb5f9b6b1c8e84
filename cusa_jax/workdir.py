"""The folder of a run: config.json says whose it is, results.json that it is finished."""

import json
from pathlib import Path
from typing import Any

from cusa_jax.config import default_config, flat
from cusa_jax.distributed import is_first, wait_for_all
from cusa_jax.errors import InputError
from cusa_jax.files import written_whole

CONFIG = "config.json"
RESULTS = "results.json"

# Keys that change how a run is carried out but not what it computes: they may differ when it is continued.
# Data that were moved are recognised by what is in them (see train.py).
FREE_KEYS = (
    "data.path", "data.image_root", "data.on_bad_image", "data.workers", "eval.batch_size", "log.every_steps",
    "checkpoint.every_steps", "checkpoint.keep", "sharding.fsdp",
)  # fmt: skip


def check_owner(workdir: Path, config: Any) -> None:
    """Raises InputError naming the keys where `workdir` is another configuration's already.

    Keys that did not exist yet when the run began have their defaults.
    """
    path = workdir / CONFIG
    ours = flat(json.loads(config.to_json()))
    if path.exists():
        theirs = flat(json.loads(default_config().to_json())) | flat(read_json(path))
        differing = [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
        told = [
            f"{key} {theirs.get(key)!r} -> {ours.get(key)!r}" for key in differing if key not in FREE_KEYS
        ]
        if told:
            raise InputError(
                f"{workdir} belongs to another configuration ({'; '.join(told[:4])}"
                f"{'; …' if len(told) > 4 else ''}); choose another --workdir, or delete it to start over"
            )


def claim(workdir: Path, config: Any) -> None:
    """Makes `workdir` this configuration's. Raises InputError where it cannot be written to."""
    wait_for_all("every process has compared configurations")
    if is_first():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(workdir / CONFIG, json.loads(config.to_json()))
        except OSError as error:
            raise InputError(f"--workdir={workdir}: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError naming the file."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not a readable JSON file ({error}); bring it back, or remove it"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {type(value).__name__}, not an object; bring it back, or remove it")
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes whole or not at all."""
    with written_whole(path) as fresh:
        fresh.write_text(json.dumps(value, indent=2) + "\n")

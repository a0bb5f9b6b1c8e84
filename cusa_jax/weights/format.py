"""One way in which weights lie on a disk: what a format is, and what it is given to look at."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from cusa_jax.errors import InputError
from cusa_jax.jsonfile import parse_json, read_json
from cusa_jax.weights import torch_file
from cusa_jax.weights.hub import Weights
from cusa_jax.weights.torch_layout import read_safetensors

CONFIG = "config.json"
HEADER = "cusa_jax"  # key of a .safetensors file's metadata, whose value is JSON
# Of DistributedDataParallel, torch.compile, and training programs such as Lightning's.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


@dataclasses.dataclass(frozen=True)
class Source:
    """A file or folder of weights. It is opened as far as a format asks, and once.

    activation: 'quick_gelu' or 'gelu' where the user says it, as most state dicts cannot; or ''.
    All properties raise InputError where the file is damaged or would run code.
    """

    path: Path
    activation: str = ""

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json of a folder; {} where there is none."""
        path = self.path / CONFIG
        return read_json(path, "get it again") if path.is_file() else {}

    @property
    def is_safetensors(self) -> bool:
        return self.path.is_file() and self.path.suffix == ".safetensors"

    @functools.cached_property
    def header(self) -> Any:
        """What this project wrote before the tensors of a .safetensors file; None of any other file."""
        if not self.is_safetensors:
            return None
        try:
            with safe_open(self.path, "numpy") as file:
                raw = (file.metadata() or {}).get(HEADER)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"{self.path}: not a readable safetensors file ({error}); get it again"
            ) from error
        return None if raw is None else parse_json(raw, self.path)

    @functools.cached_property
    def pickled(self) -> Any:
        """What PyTorch saved in a file; None of folders and .safetensors files."""
        if self.is_folder or self.is_safetensors:
            return None
        value = torch_file.read(self.path)
        torch_file.flatten(value)  # which bounds what a hostile file can nest
        return value

    @functools.cached_property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """All tensors of a file by their names, without what training programs put around them; {} of a folder."""
        if self.is_folder:
            return {}
        if self.is_safetensors:
            return without_wrappers(read_safetensors(self.path))
        return without_wrappers(torch_file.flatten(_state_dict(self.pickled)))


@dataclasses.dataclass(frozen=True)
class Format:
    """An entry of `formats.FORMATS`.

    name: what it is, for messages. family: whose models it holds; '' for any.
    recognises: by the content; of several formats the first in the table is taken. read: raises InputError.
    suffix: by which a path asks for it to be written, '' for a folder; None where it is only read, as is `write`.
    """

    name: str
    family: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source], Weights]
    suffix: str | None = None
    write: Callable[[Path, Weights], None] | None = None


def without_wrappers(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the prefixes that wrappers of modules put before every name."""
    names = {name: name for name in tensors}
    for wrapper in _WRAPPERS * 2:
        if all(ours.startswith(wrapper) for ours in names.values()):
            names = {theirs: ours.removeprefix(wrapper) for theirs, ours in names.items()}
    return {ours: tensors[theirs] for theirs, ours in names.items()}


def _state_dict(value: Any) -> Any:
    """What training programs save beside epoch and optimiser."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            return value[key]
    return value

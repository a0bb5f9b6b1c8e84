"""Our own weights: a .safetensors with the sizes in its header, and the best model of a training's folder."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from cusa_jax.checkpoint import read_best
from cusa_jax.config import from_values
from cusa_jax.errors import InputError
from cusa_jax.models.clip import ClipConfig
from cusa_jax.scalars import renamed
from cusa_jax.weights import student
from cusa_jax.weights.torch_layout import read_safetensors, write_safetensors

HEADER = "cusa_jax"  # key of the file's metadata: JSON {'clip': sizes, 'config': recipe or null}
_TAU = "temperatures."


def write(path: Path, weights: student.Weights) -> None:
    """One file: towers and heads under the reference's names, `temperatures.NAME`, sizes and recipe in the header."""
    header = {
        "clip": dataclasses.asdict(weights.clip),
        "config": None if weights.config is None else weights.config.to_dict(),
    }
    taus = {_TAU + name: np.asarray(tau) for name, tau in weights.taus.items()}
    write_safetensors(path, dict(weights.tensors) | taus, {"format": "pt", HEADER: json.dumps(header)})


def header(path: Path) -> dict[str, Any] | None:
    """What `write` put before the tensors; None of another program's file. Raises InputError where it is damaged."""
    try:
        with safe_open(path, "numpy") as file:
            raw = (file.metadata() or {}).get(HEADER)
        return raw and json.loads(raw)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); get it again") from error


def read(path: Path, described: dict[str, Any]) -> student.Weights:
    """The opposite of `write`; described: the `header`."""
    clip, config = _clip(described, path), None
    if described.get("config") is not None:
        config = from_values(described["config"], path)
    tensors = read_safetensors(path)
    taus = {name.removeprefix(_TAU): tensors.pop(name) for name in list(tensors) if name.startswith(_TAU)}
    return student.collect(clip, tensors, path, renamed(taus), config)


def read_workdir(workdir: Path) -> student.Weights:
    """The model of a training that validated best. Raises InputError where there is none, or it is damaged."""
    model, described = read_best(workdir)
    clip, config = _clip(described, workdir), from_values(described.get("config"), workdir)
    return student.from_variables(clip, model["variables"], renamed(model["taus"]), config)


def _clip(described: Any, where: Path) -> ClipConfig:
    try:
        fields = described["clip"]
        return ClipConfig(**fields | {"resnet_blocks": tuple(fields["resnet_blocks"])})  # JSON has no tuples
    except (TypeError, KeyError, ValueError, ArithmeticError) as error:
        raise InputError(f"{where}: does not say the model's sizes ({error!r})") from error

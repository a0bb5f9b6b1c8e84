"""Where a teacher comes from: a file, a model folder, or a Hugging Face id."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from cusa_jax.errors import InputError
from cusa_jax.hugging_face import download
from cusa_jax.jsonfile import read_any_json
from cusa_jax.teachers.features import SUFFIXES
from cusa_jax.types import Params, Teacher

# What is downloaded: never pickles, never code.
_WANTED = ("*.safetensors", "*.json", "*.txt")


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A folder that holds a teacher, and how the teacher is to compute.

    name: the source as the configuration names it. config: the folder's config.json.
    dtype: of the computation; parameters and features are float32.
    max_length: tokens after which a text teacher cuts a caption, where it sets no smaller limit itself.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    dtype: jnp.dtype
    max_length: int = 64


# Raises InputError where a file is missing or not what it must be. Parameters are arrays on the host.
Loader = Callable[[ModelFolder], tuple[Teacher, Params]]


def locate(source: str, *suffixes: str) -> Path:
    """An existing folder, or file with one of the suffixes; a Hugging Face id is downloaded (or in the cache).

    Raises InputError where there is no such thing.
    """
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix in suffixes):
        return path
    if path.suffix in (".pt", ".pth", ".bin"):
        readable = (
            f"{', '.join(suffixes)} of UNICOM is read; otherwise" if suffixes else "by itself it is not read;"
        )
        raise InputError(f"{source}: {readable} give the folder with config.json")
    if path.is_file():
        stored = " or ".join(SUFFIXES)
        raise InputError(f"{source}: a live teacher is a model folder, and a feature file ends in {stored}")
    if path.suffix in SUFFIXES or path.is_absolute() or source.count("/") > 1:
        raise InputError(f"{source}: no such file or folder")
    return download(source, _WANTED)


def model_files(path: Path) -> list[Path]:
    """The files that decide what a teacher computes: the file itself, or those of a model folder that are read."""
    if path.is_file():
        return [path]
    # Pickled weights are read where there are no others (`weights.torch_layout.read_folder`).
    pickled = [] if (path / "model.safetensors").is_file() else ["pytorch_model.bin"]
    return sorted({file for name in (*_WANTED, *pickled) for file in path.rglob(name)})


def read_json(path: Path, purpose: str = "it is needed", kind: type = dict) -> Any:
    """The JSON object in a file, or the list where `kind` is list. purpose: said where the file is missing.

    Raises InputError where the file is missing, unreadable, or holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; {purpose}")
    value = read_any_json(path, "get it again")
    if not isinstance(value, kind):
        expected = "a JSON object" if kind is dict else "a list of JSON objects"
        raise InputError(f"{path}: must hold {expected}")
    return value

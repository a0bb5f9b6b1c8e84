"""Where a teacher comes from: a file, a model folder, or a Hugging Face id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from cusa_jax.errors import InputError
from cusa_jax.teachers.features import SUFFIXES

_WANTED = ("*.safetensors", "*.json", "*.txt")  # never pickles, never code


def locate(source: str, *suffixes: str) -> Path:
    """An existing folder, or file with one of the suffixes; a Hugging Face id is downloaded (or in the cache).

    Raises InputError where there is no such thing.
    """
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix in suffixes):
        return path
    if path.suffix in (".pt", ".pth", ".bin"):
        taken = (
            f"{', '.join(suffixes)} of UNICOM is read; otherwise" if suffixes else "by itself it is not read;"
        )
        raise InputError(f"{source}: {taken} give the folder with config.json")
    if path.is_file():
        stored = " or ".join(SUFFIXES)
        raise InputError(f"{source}: a live teacher is a model folder, and a feature file ends in {stored}")
    if path.suffix in SUFFIXES or path.is_absolute() or source.count("/") > 1:
        raise InputError(f"{source}: no such file or folder")
    try:
        return Path(snapshot_download(source, allow_patterns=list(_WANTED)))
    except (HFValidationError, OSError, ValueError) as error:  # OSError: not found, no network, no rights
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{source}: neither a folder here nor to be had from Hugging Face ({reason}); give a local folder"
        ) from error


def model_files(path: Path) -> list[Path]:
    """The files that make up a teacher: a model folder's of the kinds that are read, or the file itself."""
    return [path] if path.is_file() else sorted({file for name in _WANTED for file in path.rglob(name)})


def read_json(path: Path, purpose: str) -> dict[str, Any]:
    """The JSON object in a file. purpose: what it is needed for, told where it is missing."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {purpose}")
    try:
        value = json.loads(path.read_text(encoding="utf8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return value

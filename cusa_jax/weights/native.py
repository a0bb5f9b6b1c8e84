"""Our own weights: a .safetensors that says everything of its model, and the best model of a run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from cusa_jax.checkpoint import read_best
from cusa_jax.config import from_values
from cusa_jax.data import tokenizer_file
from cusa_jax.errors import InputError, one_line
from cusa_jax.models.families import describe, read_description
from cusa_jax.models.heads import HEADS as HEAD_KINDS
from cusa_jax.runlog import INTERVALS, read_results
from cusa_jax.scalars import renamed
from cusa_jax.types import Params
from cusa_jax.weights import openai
from cusa_jax.weights.format import HEADER, Format, Source
from cusa_jax.weights.hub import HEADS, Weights, head_kind_in, heads_in, template
from cusa_jax.weights.torch_layout import (
    KeyTable,
    Tensors,
    from_torch,
    read_safetensors,
    to_torch,
    write_safetensors,
)
from cusa_jax.workdir import RESULTS

VERSION = 2  # of the .safetensors; the first had OpenAI's names, and its header says no version
_SCALARS, _EXTRAS = "scalars/", "extras/"
_OLD_SCALARS = "temperatures."


def key_table(variables: Params) -> KeyTable:
    """Every leaf under its own path, 'params/image/…', in its own layout. variables: anything with shapes."""
    names = ("/".join(path) for path in traverse_util.flatten_dict(variables))
    return {name: Tensors((name,), axes="ours") for name in names}


# --- the .safetensors -----------------------------------------------------------------------------------------


def _recognises(source: Source) -> bool:
    return source.header is not None


def _read(source: Source) -> Weights:
    header, where = source.header, source.path
    if not isinstance(header, dict):
        raise InputError(f"{where}: its header is not one of ours; get the file again")
    if (version := header.get("format", 1)) not in (1, VERSION):
        raise InputError(f"{where}: of version {version!r}, newer than this program; update it"[:200])
    family, sizes = read_description(header, where)
    config = None if header.get("config") is None else from_values(header["config"], where)
    tensors = read_safetensors(where)
    tokenizer = "" if tensors.pop(tokenizer_file.TENSOR, None) is None else str(where)
    if version == 1:
        scalars = _scalars(_taken(tensors, _OLD_SCALARS), where)
        return openai.from_tensors(sizes, tensors, where, scalars, config)
    scalars, extras = (_scalars(_taken(tensors, prefix), where) for prefix in (_SCALARS, _EXTRAS))
    heads = header.get("heads")
    if not isinstance(heads, list) or not set(map(str, heads)) <= set(HEADS):
        raise InputError(f"{where}: heads are {one_line(repr(heads))[:80]}, and may be of {', '.join(HEADS)}")
    if (head_kind := header.get("head_kind", "linear")) not in tuple(HEAD_KINDS):
        raise InputError(
            f"{where}: head_kind is {one_line(repr(head_kind))[:80]}, none of {', '.join(HEAD_KINDS)}"
        )
    shapes = template(family, sizes, tuple(kind for kind in HEADS if kind in heads), where, head_kind)
    variables = from_torch(tensors, shapes, key_table(shapes), ignored={}, where=where)
    return Weights(family, sizes, variables, heads_in(variables), scalars, config, tokenizer, extras)


def _write(path: Path, weights: Weights) -> None:
    header = {
        "format": VERSION,
        **describe(weights.family, weights.sizes),
        "heads": weights.heads,
        "head_kind": weights.head_kind,
        "config": None if weights.config is None else weights.config.to_dict(),
    }
    tensors = to_torch(weights.variables, key_table(weights.variables))
    for prefix, values in ((_SCALARS, weights.scalars), (_EXTRAS, weights.extras)):
        tensors |= {prefix + name: np.asarray(value) for name, value in values.items()}
    if weights.tokenizer:
        held = tokenizer_file.content(weights.tokenizer)
        tensors[tokenizer_file.TENSOR] = np.frombuffer(held, np.uint8)
    write_safetensors(path, tensors, {"format": "pt", HEADER: json.dumps(header)})


FORMAT = Format("our .safetensors", "", _recognises, _read, ".safetensors", _write)


# --- a run's folder -------------------------------------------------------------------------------------------


def _is_run(source: Source) -> bool:
    return (source.path / "best").is_dir()


def _read_run(source: Source) -> Weights:
    """The model that validated best. Raises InputError where there is none, or it is damaged."""
    model, described = read_best(source.path)
    where = source.path
    family, sizes = read_description(described, where)
    config = from_values(described.get("config"), where)
    try:
        variables = model["variables"]
        # Older runs had temperatures alone.
        scalars = model["scalars"] if "scalars" in model else model["taus"]
        heads, head_kind = heads_in(variables), head_kind_in(variables)
        tensors = to_torch(variables, key_table(variables))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: its best model is not one of ours ({error!r})") from error
    shapes = template(family, sizes, heads, where, head_kind)
    variables = from_torch(tensors, shapes, key_table(shapes), ignored={}, where=where)
    tokenizer = where / tokenizer_file.FILE
    results = read_results(where) if (where / RESULTS).is_file() else {"test": {}, INTERVALS: {}}
    return Weights(
        *(family, sizes, variables, heads, _scalars(scalars, where), config),
        str(tokenizer) if tokenizer.is_file() else "",
        figures=results["test"],
        intervals={name: (low, high) for name, (low, high) in results[INTERVALS].items()},
    )


RUN = Format("a training's folder", "", _is_run, _read_run)


def _taken(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Those whose names begin with `prefix`, out of `tensors`, under the rest of their names."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _scalars(values: Mapping[str, Any], where: Path) -> dict[str, np.ndarray]:
    """float32 []. Raises InputError for what is no number."""
    arrays = {name: np.asarray(value) for name, value in renamed(values).items()}
    if wrong := [name for name, value in arrays.items() if value.shape or value.dtype.kind not in "fV"]:
        raise InputError(f"{where}: no single numbers: {one_line(', '.join(wrong))}")
    return {name: value.astype(np.float32) for name, value in arrays.items()}

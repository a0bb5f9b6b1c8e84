"""The teachers' own encoders (MPNet, UNICOM) as folders: config.json and model.safetensors.

The safetensors keys are the official ones, so that a downloaded checkpoint and one saved here load alike.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.jsonfile import MOST_LAYERS
from cusa_jax.teachers import mpnet, unicom
from cusa_jax.types import Params
from cusa_jax.weights import torch_file, torch_layout

Config = mpnet.MPNetConfig | unicom.UnicomConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """What distinguishes the encoders of one `model_type`."""

    config: type
    key_table: Callable[[Any], dict[str, str]]
    ignored: Mapping[str, str]
    init: Callable[[Any], Params]  # the parameters of a config; only their shapes are asked for
    prefix: str = ""  # that some checkpoints put before every key


def _init_mpnet(config: mpnet.MPNetConfig) -> Params:
    text = jnp.ones((1, 1), jnp.int32)
    return mpnet.MPNet(config).init(jax.random.key(0), text, text)["params"]


def _init_unicom(config: unicom.UnicomConfig) -> Params:
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
    return unicom.Unicom(config).init(jax.random.key(0), pixels)["params"]


FAMILIES = {
    "mpnet": Family(mpnet.MPNetConfig, mpnet.key_table, mpnet.IGNORED_KEYS, _init_mpnet, prefix="mpnet."),
    "unicom": Family(unicom.UnicomConfig, unicom.key_table, unicom.IGNORED_KEYS, _init_unicom),
}


def _whole(smallest: int, largest: float = math.inf) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
            raise ValueError
        return value

    return convert


def _channels(value: Any) -> tuple[float, ...]:
    red, green, blue = value
    return float(red), float(green), float(blue)


# How a field of a config is read from JSON, by its annotation, and what to call it in a message.
FIELD_KINDS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    "int": (_whole(1), "a whole number from 1"),
    "LayerCount": (_whole(1, MOST_LAYERS), f"a whole number from 1 to {MOST_LAYERS}"),
    "TokenId": (_whole(0), "a whole number from 0"),
    "float": (float, "a number"),
    "str": (str, "a text"),
    "tuple[float, ...]": (_channels, "three numbers"),
}


def save(folder: str | Path, config: Config, params: Params) -> None:
    """Writes config.json and model.safetensors; the dtypes of `params` are kept (float16 halves the file)."""
    folder = Path(folder)
    model_type, family = next(item for item in FAMILIES.items() if item[1].config is type(config))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = torch_layout.to_torch(params, family.key_table(config))
    torch_layout.write_safetensors(folder / "model.safetensors", tensors)
    # Last, because a folder without config.json is not taken for a teacher.
    described = {"model_type": model_type} | dataclasses.asdict(config)
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def load(folder: Path, raw_config: Mapping[str, Any]) -> tuple[Any, Params]:
    """Config and float32 parameters of a folder whose config.json, already read, names one of FAMILIES.

    Raises InputError where the config is incomplete or the weights are not those that it describes.
    """
    family = FAMILIES[raw_config["model_type"]]
    config = _parse_config(family.config, raw_config, folder / "config.json")
    return config, _params(family, config, torch_layout.read_folder(folder), folder)


def read_unicom(path: Path) -> tuple[unicom.UnicomConfig, Params]:
    """Config and float32 parameters of a `.pt` as UNICOM releases them. Raises InputError where it is none."""
    tensors = torch_file.flatten(torch_file.read(path))
    try:
        config = unicom.config_of(tensors)
    except (KeyError, ValueError, ArithmeticError) as error:
        raise InputError(f"{path}: not the weights of UNICOM ({' '.join(map(str, error.args))})") from error
    return config, _params(FAMILIES["unicom"], config, tensors, path)


def _params(family: Family, config: Config, tensors: Mapping[str, np.ndarray], where: Path) -> Params:
    named = {key.removeprefix(family.prefix): tensor for key, tensor in tensors.items()}
    template = jax.eval_shape(lambda: family.init(config))
    return torch_layout.from_torch(
        named, template, family.key_table(config), ignored=family.ignored, where=where
    )


def _parse_config(kind: type, raw: Mapping[str, Any], path: Path) -> Any:
    """The fields of the dataclass `kind` from a JSON object that may hold many others."""
    fields = dataclasses.fields(kind)
    missing = [
        field.name for field in fields if field.default is dataclasses.MISSING and field.name not in raw
    ]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}")
    values = {}
    for field in fields:
        if field.name in raw:
            convert, meaning = FIELD_KINDS[field.type]
            try:
                values[field.name] = convert(raw[field.name])
            except (TypeError, ValueError):
                raise InputError(f"{path}: {field.name} = {raw[field.name]!r} is not {meaning}") from None
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None

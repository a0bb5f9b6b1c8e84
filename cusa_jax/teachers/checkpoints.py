"""Checkpoints of the encoders that are defined here: folders of config.json and model.safetensors.

The tensors have their official names, so that a downloaded checkpoint and one saved here load alike.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.jsonfile import MOST_LAYERS
from cusa_jax.teachers import bert, mpnet, resnet, unicom
from cusa_jax.teachers import vision_transformer as vit
from cusa_jax.types import Params
from cusa_jax.weights import torch_file, torch_layout

_OF_TENSORFLOW = {"gamma": "weight", "beta": "bias"}

Config = mpnet.MPNetConfig | bert.BertConfig | unicom.UnicomConfig | vit.VisionConfig | resnet.ResNetConfig


@dataclasses.dataclass(frozen=True)
class Format:
    """What distinguishes the checkpoints of one `model_type`.

    config: the dataclass of its sizes. key_table, ignored: as in `weights.torch_layout`.
    init: config -> parameters, of which only the shapes are asked for. depth: config -> number of layers.
    prefix: what some checkpoints put before every key.
    """

    config: type
    key_table: Callable[[Any], dict[str, str]]
    ignored: Mapping[str, str]
    init: Callable[[Any], Params]
    depth: Callable[[Any], int]
    prefix: str = ""


def _init_text(model: Callable[[Any], nn.Module]) -> Callable[[Any], Params]:
    def init(config: Any) -> Params:
        text = jnp.ones((1, 1), jnp.int32)
        return model(config).init(jax.random.key(0), text, text)["params"]

    return init


def _init_vision(model: Callable[[Any], nn.Module]) -> Callable[[Any], Params]:
    def init(config: Any) -> Params:
        pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
        return model(config).init(jax.random.key(0), pixels)["params"]

    return init


def _init_resnet(config: resnet.ResNetConfig) -> Params:
    # Its parameters do not depend on the size of a picture.
    return resnet.ResNet(config).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


def _layers(config: Any) -> int:
    return config.num_hidden_layers


def _bert(config: type, prefix: str) -> Format:
    return Format(config, bert.key_table, bert.IGNORED_KEYS, _init_text(bert.Bert), _layers, prefix)


def _vision(config: type, prefix: str) -> Format:
    return Format(
        config, vit.key_table, vit.IGNORED_KEYS, _init_vision(vit.VisionTransformer), _layers, prefix
    )


FORMATS = {
    "mpnet": Format(
        mpnet.MPNetConfig, mpnet.key_table, mpnet.IGNORED_KEYS, _init_text(mpnet.MPNet), _layers, "mpnet."
    ),
    "bert": _bert(bert.BertConfig, "bert."),
    "roberta": _bert(bert.RobertaConfig, "roberta."),
    "xlm-roberta": _bert(bert.RobertaConfig, "roberta."),
    "unicom": Format(
        unicom.UnicomConfig,
        unicom.key_table,
        unicom.IGNORED_KEYS,
        _init_vision(unicom.Unicom),
        depth=lambda config: config.depth,
    ),
    "vit": _vision(vit.ViTConfig, "vit."),
    "dinov2": _vision(vit.Dinov2Config, "dinov2."),
    "clip": _vision(vit.ClipVisionConfig, "vision_model."),
    "clip_vision_model": _vision(vit.ClipVisionConfig, "vision_model."),
    "resnet": Format(
        resnet.ResNetConfig,
        resnet.key_table,
        resnet.IGNORED_KEYS,
        _init_resnet,
        depth=lambda config: sum(config.depths),
        prefix="resnet.",
    ),
}
TEXT_MODELS = ("bert", "roberta", "xlm-roberta", "mpnet")
VISION_TRANSFORMERS = ("vit", "dinov2", "clip", "clip_vision_model")


def _whole(smallest: int, largest: float = math.inf) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
            raise ValueError
        return value

    return convert


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _counts(value: Any) -> tuple[int, ...]:
    return tuple(map(_whole(1), value))


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
    "bool": (_truth, "true or false"),
    "tuple[float, ...]": (_channels, "three numbers"),
    "tuple[int, ...]": (_counts, "whole numbers from 1"),
}


def save(folder: str | Path, config: Config, params: Params) -> None:
    """Writes config.json and model.safetensors; the dtypes of `params` are kept (float16 halves the file)."""
    folder = Path(folder)
    model_type, format_ = next(item for item in FORMATS.items() if item[1].config is type(config))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = torch_layout.to_torch(params, format_.key_table(config))
    torch_layout.write_safetensors(folder / "model.safetensors", tensors)
    # Last, because a folder without config.json is not taken for a teacher.
    described = {"model_type": model_type} | dataclasses.asdict(config)
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def load(folder: Path, raw_config: Mapping[str, Any]) -> tuple[Any, Params]:
    """Config and float32 parameters of a folder whose config.json, already read, names one of FORMATS.

    Raises InputError where the config is incomplete or the weights are not those that it describes.
    """
    format_ = FORMATS[raw_config["model_type"]]
    # Of a whole CLIP, the config of its image tower.
    sizes = raw_config.get("vision_config", {}) if raw_config["model_type"] == "clip" else raw_config
    if not isinstance(sizes, Mapping):
        raise InputError(f"{folder}/config.json: vision_config must be an object")
    config = _parse_config(format_.config, sizes, folder / "config.json")
    return config, _params(format_, config, torch_layout.read_folder(folder), folder)


def read_unicom(path: Path) -> tuple[unicom.UnicomConfig, Params]:
    """Config and float32 parameters of a `.pt` as UNICOM releases them. Raises InputError where it is none."""
    tensors = torch_file.flatten(torch_file.read(path))
    try:
        config = unicom.config_of(tensors)
    except (KeyError, ValueError, ArithmeticError) as error:
        raise InputError(f"{path}: not the weights of UNICOM ({' '.join(map(str, error.args))})") from error
    return config, _params(FORMATS["unicom"], config, tensors, path)


def _params(format_: Format, config: Config, tensors: Mapping[str, np.ndarray], where: Path) -> Params:
    check_depth(format_.depth(config), tensors, where)
    named = {_renamed(key.removeprefix(format_.prefix)): tensor for key, tensor in tensors.items()}
    try:
        template = jax.eval_shape(lambda: format_.init(config))
    except (ArithmeticError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: config.json describes a model that cannot be built ({reason})") from error
    return torch_layout.from_torch(
        named, template, format_.key_table(config), ignored=format_.ignored, where=where
    )


def _renamed(key: str) -> str:
    """Layer norms of the first BERT have the names of TensorFlow's."""
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda old: f"LayerNorm.{_OF_TENSORFLOW[old[1]]}", key)


def check_depth(layers: int, tensors: Mapping[str, np.ndarray], where: Path) -> None:
    """Raises InputError where a model has far more layers than its file has tensors: to build 2⁶³ would never end.

    Some models use a tensor in several layers (ALBERT: in 24).
    """
    if layers > 24 * len(tensors):
        raise InputError(
            f"{where}: {layers} layers cannot be made of the {len(tensors)} tensors of the weights"
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

"""Weights of any format that a user comes with: found out, read, and written.

| in                                                        | recognised by                                  |
|-----------------------------------------------------------|------------------------------------------------|
| a training's folder                                       | best/                                          |
| open_clip's folder                                        | open_clip_config.json                          |
| Hugging Face's CLIP folder                                | any other folder                               |
| our .safetensors                                          | its header                                     |
| OpenAI's CLIP .pt                                         | a TorchScript archive                          |
| the reference's checkpoint_*.pth                          | {'model': …, 'config': …}                      |
| state dicts (.pt, .pth, .bin, .safetensors), open_clip's  | any other file                                 |
"""

from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.models.dual_encoder import DualEncoder
from cusa_jax.types import Params
from cusa_jax.weights import own, reference_checkpoint, student, torch_file
from cusa_jax.weights.huggingface import read_clip, write_clip
from cusa_jax.weights.open_clip import CONFIG, openai_names, read_open_clip
from cusa_jax.weights.openai import clip_config, known_activation
from cusa_jax.weights.torch_layout import read_safetensors


def read_weights(source: str | Path, activation: str = "") -> student.Weights:
    """The CLIP at `source`, with whatever heads, temperatures and recipe it has. PyTorch is not needed.

    activation: 'quick_gelu' or 'gelu', where the file cannot say it, as most state dicts cannot.

    Raises InputError in one line: nothing is there, the file is damaged or would run code, its keys do not fit (all
    are listed), or it says another activation.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        weights = _read_folder(path, activation)
    elif path.is_file():
        weights = _read_file(path, activation)
    else:
        raise InputError(f"{source}: no such file or folder")
    known_activation(weights.clip.activation, activation, path)
    return weights


def load_model(source: str | Path, activation: str = "") -> tuple[DualEncoder, Params]:
    """The model at `source`, with whatever heads it has, and its variables as numpy arrays. Errors: `read_weights`."""
    weights = read_weights(source, activation)
    model = DualEncoder(weights.clip, "cross" in weights.heads, "uni" in weights.heads)
    return model, student.variables(weights, weights.heads, source)


def write_weights(path: Path, weights: student.Weights) -> None:
    """Writes the format that the name asks for, whole or not at all, in float32.

    .pth: a checkpoint of the reference. .safetensors: ours, everything in one file. .pt: the CLIP alone under OpenAI's
    names, for `clip.build_model`. A folder (no suffix): Hugging Face's CLIPModel, the CLIP alone.
    """
    match path.suffix:
        case ".pth":
            reference_checkpoint.write(path, weights)
        case ".safetensors":
            own.write(path, weights)
        case ".pt":
            torch_file.write(path, student.with_counters(student.towers(weights)))
        case "":
            write_clip(path, weights.clip, student.towers(weights))
        case other:
            raise InputError(
                f"{path}: {other} is none of .pth, .safetensors, .pt, and a folder without a suffix"
            )


def _read_folder(folder: Path, activation: str) -> student.Weights:
    if (folder / "best").is_dir():
        return own.read_workdir(folder)
    if (folder / CONFIG).is_file():
        return student.collect(*read_open_clip(folder, activation), folder)
    return student.collect(*read_clip(folder), folder)


def _read_file(path: Path, activation: str) -> student.Weights:
    if path.suffix == ".safetensors":
        if described := own.header(path):
            return own.read(path, described)
        return _named_tensors(read_safetensors(path), None, activation, path)
    value = torch_file.read(path)
    tensors = torch_file.flatten(value)  # which bounds what a hostile file can nest
    if reference_checkpoint.is_checkpoint(value):
        return reference_checkpoint.read(value, path)
    if isinstance(value, torch_file.Module):
        return _named_tensors(tensors, "quick_gelu", activation, path)
    return _named_tensors(torch_file.flatten(_state_dict(value)), None, activation, path)


def _state_dict(value: Any) -> Any:
    """What training programs save beside epoch and optimiser."""
    for key in ("state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            return value[key]
    return value


def _named_tensors(
    tensors: dict[str, np.ndarray], said: str | None, asked: str, path: Path
) -> student.Weights:
    tensors = openai_names(tensors)
    for key, told in (
        ("patch_embed.proj.weight", "UNICOM, an image teacher: config.teacher.image takes the file as it is"),
        ("vision_model.post_layernorm.weight", "Hugging Face's names: give the folder, with its config.json"),
    ):
        if key in tensors:
            raise InputError(f"{path}: the weights of {told}")
    clip = clip_config(tensors, said or asked or "quick_gelu", path)
    known_activation(said, asked, path)
    return student.collect(clip, tensors, path)

"""Weights of any format that a user comes with: found out by their content, read, and written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cusa_jax.data import tokenizer_file
from cusa_jax.errors import InputError, one_line
from cusa_jax.hugging_face import find_model
from cusa_jax.models.student import Student
from cusa_jax.types import Params
from cusa_jax.weights import (
    huggingface,
    metadata,
    native,
    open_clip,
    openai,
    reference_checkpoint,
    sgraf,
    siglip,
    stablehlo,
)
from cusa_jax.weights.format import CONFIG, Format, Source
from cusa_jax.weights.hub import Weights

# The first that recognises a file or a folder reads it; a family adds its own.
FORMATS: dict[str, Format] = {
    "run": native.RUN,
    "open_clip": open_clip.FORMAT,
    "huggingface_clip": huggingface.FORMAT,
    "huggingface_siglip": siglip.FORMAT,
    "native": native.FORMAT,
    "sgraf": sgraf.FORMAT,
    "reference": reference_checkpoint.FORMAT,
    "openai": openai.FORMAT,
    "stablehlo": stablehlo.FORMAT,
}
# Tensors of what users give by mistake, and what to do with it.
_OTHERS = {
    "patch_embed.proj.weight": "the weights of UNICOM, an image teacher: config.teacher.image takes the file as it is",
    "vision_model.post_layernorm.weight": "the weights of Hugging Face's names: give the folder, with its config.json",
}


def read_weights(source: str | Path, activation: str = "") -> Weights:
    """The model at `source`, with whatever heads, scalars and recipe it has. PyTorch is not needed.

    source: a file, a folder, or a Hugging Face id, OWNER/NAME[@REVISION].
    activation: 'quick_gelu' or 'gelu', where the file cannot say it, as most state dicts cannot.

    Raises InputError in one line: nothing is there, no format is recognised, the file is damaged or would run code,
    its keys do not fit (all are listed), or it says another activation.
    """
    path = find_model(source)
    opened = Source(path, activation)
    for known in FORMATS.values():
        if known.recognises(opened):
            weights = known.read(opened)
            if said := getattr(weights.sizes, "activation", None):
                metadata.activation(said, activation, path)
            return weights
    raise InputError(f"{path}: {_unrecognised(opened)}")


def load_model(
    source: str | Path, activation: str = "", tokenizer: str = "", dtype: str = "float32"
) -> tuple[Student, Params]:
    """The model at `source`, with whatever heads it has, and its variables as numpy arrays.

    tokenizer, errors: as `with_tokenizer`. dtype: of the computation, of `hub.DTYPES`.
    """
    weights = with_tokenizer(read_weights(source, activation), tokenizer, source)
    return weights.student(dtype), weights.variables


def with_tokenizer(weights: Weights, tokenizer: str, source: str | Path) -> Weights:
    """tokenizer: a tokenizer.json or a vocabulary, for weights that bring none; '' leaves theirs.

    Raises InputError where it is not that of the weights at `source`.
    """
    if not tokenizer:
        return weights
    tokenizer_file.check_words(tokenizer, weights.sizes, str(source))
    return dataclasses.replace(weights, tokenizer=tokenizer)


def write_weights(path: Path, weights: Weights, kind: str = "") -> None:
    """Writes the format `kind`, or that the name asks for, whole or not at all, in float32.

    .pth: a checkpoint of the reference. .safetensors: ours, everything in one file. .pt: the CLIP alone under OpenAI's
    names, for `clip.build_model`. .tar (.pth.tar): a checkpoint of SGRAF. A folder (no suffix): Hugging Face's, the
    model alone. kind: a key of FORMATS, such as 'open_clip' and 'stablehlo', which are folders too.
    """
    writers = {known.suffix: known for known in FORMATS.values() if known.family in ("", weights.family)}
    chosen = FORMATS[kind] if kind else writers.get(path.suffix)
    if chosen and chosen.family not in ("", weights.family):
        raise InputError(
            f"{path}: {chosen.name} holds a {chosen.family}, and this model is a {weights.family}"
        )
    if chosen is None or chosen.write is None:
        named = ", ".join(sorted(suffix for suffix in writers if suffix))
        raise InputError(
            f"{path}: {path.suffix or 'a folder'} is none of the ways to write a {weights.family} model: {named}"
            + (", and a folder without a suffix" if "" in writers else "")
        )
    chosen.write(path, weights)


def _unrecognised(source: Source) -> str:
    if source.is_folder:
        if not source.config:
            return (
                f"no {CONFIG} in it; a folder of weights has one, or open_clip_config.json, or a run's best/"
            )
        said = one_line(repr(source.config.get("model_type")))[:80]
        return f"{CONFIG} says model_type {said}; read are folders of {', '.join(_families(folders=True))}"
    for key, reason in _OTHERS.items():
        if key in source.tensors:
            return reason
    names = list(source.tensors)[:3]
    held = one_line(f"tensors such as {', '.join(names)}") if names else "no tensors"
    return f"not the weights of a model that is read here ({', '.join(_families(folders=False))}): it holds {held}"


def _families(folders: bool) -> list[str]:
    """Those that have a format that is written as a folder, or as a file."""
    return sorted(
        {known.family for known in FORMATS.values() if known.family and folders == (known.suffix == "")}
    )

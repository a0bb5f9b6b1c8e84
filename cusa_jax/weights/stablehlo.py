"""Both towers as programs, StableHLO with the weights within, which `jax.export` loads without this project.

A folder: image.stablehlo takes uint8 [b, S, S, 3], text.stablehlo int32 [b, L] of the model's tokenizer;
both give embeddings float32 [b, E] of length 1, for any b. description.json says S (image.size), L (text.length), E
(embed_dim) and how pixels are made; the tokenizer lies beside them, as transformers reads it, and a model card.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from cusa_jax.errors import InputError
from cusa_jax.files import folder_written_whole
from cusa_jax.inputs import Pixels, Text
from cusa_jax.jsonfile import write_json
from cusa_jax.models.student import Embeds, Side
from cusa_jax.weights.card import write_card
from cusa_jax.weights.format import Format, Source
from cusa_jax.weights.hub import Weights
from cusa_jax.weights.huggingface_tokenizer import write_tokenizer

PLATFORMS = ("cpu", "cuda", "tpu")


def _write(folder: Path, weights: Weights) -> None:
    """With its heads, whatever they are. Raises InputError for a model without embeddings of pixels."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError(f"{folder}: JAX needs flatbuffers to write programs: pip install flatbuffers")
    student = weights.student()
    pixels, text = student.inputs.image, student.inputs.text
    if not isinstance(student, Embeds) or not isinstance(pixels, Pixels):
        raise InputError(
            f"{folder}: a {weights.family} has no towers that embed a picture and a text by themselves"
        )
    with folder_written_whole(folder) as fresh:
        for side, rows in _rows(pixels, text).items():
            encode = jax.jit(_embedding(student, weights.variables, side))
            program = export.export(encode, platforms=PLATFORMS)(rows)
            (fresh / f"{side}.stablehlo").write_bytes(program.serialize())
            width = program.out_avals[0].shape[-1]
        said = {
            "family": weights.family,
            "platforms": PLATFORMS,
            "embed_dim": width,
            "image": dataclasses.asdict(pixels),
            "text": {"length": text.length, "pad_id": text.pad_id},
        }
        write_json(fresh / "description.json", said)
        write_tokenizer(fresh, weights)
        write_card(fresh, weights, "jax")


def _rows(pixels: Pixels, text: Text) -> dict[Side, jax.ShapeDtypeStruct]:
    """What each program takes, of any number of rows."""
    batch = export.symbolic_shape("b")[0]
    return {
        "image": jax.ShapeDtypeStruct((batch, *pixels.shape), jnp.uint8),
        "text": jax.ShapeDtypeStruct((batch, text.length), jnp.int32),
    }


def _embedding(student: Embeds, variables: Any, side: Side) -> Any:
    held = jax.tree.map(jnp.asarray, variables)

    def cross_modal(rows: jax.Array) -> jax.Array:
        embedding, _ = student.embed(held, side, rows)
        embedding = embedding.astype(jnp.float32)
        return embedding / jnp.linalg.norm(embedding, axis=1, keepdims=True)

    return cross_modal


def _recognises(source: Source) -> bool:
    return source.is_folder and (source.path / "image.stablehlo").is_file()


def _read(source: Source) -> Weights:
    raise InputError(f"{source.path}: exported programs, which only `jax.export.deserialize` loads")


FORMAT = Format("exported programs", "", _recognises, _read, write=_write)

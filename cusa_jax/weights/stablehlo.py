"""Both towers as programs, StableHLO with the weights within, which `jax.export` loads without this project.

A folder: image.stablehlo takes uint8 [b, S, S, 3], text.stablehlo int32 [b, L] of the model's tokenizer;
both give embeddings float32 [b, E] of length 1, for any b. description.json says S, L, E and how pixels are made.
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
from cusa_jax.files import written_whole
from cusa_jax.inputs import Pixels
from cusa_jax.jsonfile import write_json
from cusa_jax.models.student import Embeds, Side
from cusa_jax.weights.format import Format, Source
from cusa_jax.weights.hub import Weights

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
    batch = export.symbolic_shape("b")[0]
    rows: dict[Side, jax.ShapeDtypeStruct] = {
        "image": jax.ShapeDtypeStruct((batch, *pixels.shape), jnp.uint8),
        "text": jax.ShapeDtypeStruct((batch, text.length), jnp.int32),
    }
    programs = {
        side: export.export(jax.jit(_embedding(student, weights.variables, side)), platforms=PLATFORMS)(given)
        for side, given in rows.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    for side, program in programs.items():
        with written_whole(folder / f"{side}.stablehlo") as fresh:
            fresh.write_bytes(program.serialize())
    said = {"image": dataclasses.asdict(pixels), "text": {"length": text.length, "pad_id": text.pad_id}}
    write_json(folder / "description.json", {"family": weights.family, "platforms": PLATFORMS, **said})


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

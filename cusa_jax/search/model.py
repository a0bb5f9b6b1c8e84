"""The model that an index was made with, and the index ready to be searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cusa_jax import sharding
from cusa_jax.compiled import keep_compiled
from cusa_jax.data.tokenize import tokenizer
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.search import index
from cusa_jax.search.finder import Finder
from cusa_jax.weights.formats import load_model


def load(checkpoint: str, batch_size: int) -> tuple[Encoder, Any, str]:
    """(encoder, variables on the mesh, fingerprint) of a checkpoint.

    Raises InputError for one that cannot search: without embeddings, or of other inputs than photos and CLIP's tokens.
    """
    student, variables = load_model(checkpoint)
    encoder = Encoder(student, sharding.make_mesh(), batch_size)
    try:
        encoder.check_embeds()
        tokenizer(student.inputs.text)
    except InputError as error:
        raise InputError(f"{checkpoint}: {error}") from error
    if not isinstance(student.inputs.image, Pixels):
        raise InputError(f"{checkpoint}: the model takes features of regions, and a photo is made of pixels")
    return encoder, sharding.put_params(variables, encoder.mesh), index.fingerprint(student, variables)


def open_index(file: Path, checkpoint: str = "", photos: str = "") -> Finder:
    """The finder of an index. checkpoint, photos: where the model or the folder is now, if it was moved.

    Raises InputError for a damaged index, or a model that did not make it.
    """
    origin, paths, cross = index.read(file, "cross")
    _, _, uni = index.read(file, "uni")
    checkpoint = checkpoint or origin.checkpoint
    keep_compiled(beside(file))
    encoder, variables, fingerprint = load(checkpoint, 1)
    index.check_model(file, origin, fingerprint, checkpoint)
    if photos:
        paths = [Path(photos).absolute() / path.relative_to(origin.photos) for path in paths]
    return Finder(paths, cross, uni, encoder, variables)


def beside(file: Path) -> Path:
    """Where what is compiled for an index is kept: INDEX.compiled."""
    return file.with_name(f"{file.name}.compiled")

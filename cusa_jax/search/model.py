"""The model that an index was made with, and the index ready to be searched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cusa_jax import sharding
from cusa_jax.compiled import keep_compiled
from cusa_jax.data.tokenize import tokenizer
from cusa_jax.encoder import Encoder
from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.search import index
from cusa_jax.search.finder import ALIKE, Finder
from cusa_jax.weights.formats import read_weights


def load(checkpoint: str, batch_size: int, dtype: str = "float32") -> tuple[Encoder, Any, str]:
    """(encoder, variables on the mesh, fingerprint) of a checkpoint. dtype: of the computation, of `hub.DTYPES`.

    Raises InputError for one that cannot search: without embeddings, or of other inputs than photos and CLIP's tokens.
    """
    weights = read_weights(checkpoint)
    student, variables, dtype = weights.student(dtype), weights.variables, weights.dtype(dtype)
    encoder = Encoder(student, sharding.make_mesh(), batch_size)
    try:
        encoder.check_embeds()
        tokenizer(student.inputs.text)
    except InputError as error:
        raise InputError(f"{checkpoint}: {error}") from error
    if not isinstance(student.inputs.image, Pixels):
        raise InputError(f"{checkpoint}: the model takes features of regions, and a photo is made of pixels")
    return encoder, sharding.put_params(variables, encoder.mesh), index.fingerprint(student, variables, dtype)


def open_index(file: Path, checkpoint: str = "", photos: str = "", alike: float = ALIKE) -> Finder:
    """The finder of an index. checkpoint, photos: where the model or the folder is now, if it was moved.

    alike: cosine similarity of photos that are near-duplicates.

    Raises InputError for a damaged index, or a model that did not make it.
    """
    held = index.read(file)
    checkpoint = checkpoint or held.origin.checkpoint
    keep_compiled(compiled_beside(file))
    encoder, variables, fingerprint = load(checkpoint, 1, held.origin.dtype)
    index.check_model(file, held.origin, fingerprint, checkpoint)
    folder = os.path.abspath(photos or held.origin.photos)
    paths = [os.path.join(folder, name) for name in held.names]
    return Finder(paths, held.cross, held.uni, encoder, variables, alike)


def compiled_beside(file: Path) -> Path:
    """The folder of what is compiled for an index."""
    return Path(f"{file.absolute()}.compiled")

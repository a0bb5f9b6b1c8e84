"""A path on the command line -> the source of embeddings that it names."""

from __future__ import annotations

from pathlib import Path

from cusa_jax import sharding
from cusa_jax.evaluation.sources import ArraySource, EmbeddingSource, SentenceSource, StudentSource
from cusa_jax.hugging_face import find_model
from cusa_jax.jsonfile import read_json
from cusa_jax.teachers.live import load_text_teacher
from cusa_jax.weights.formats import read_weights, with_tokenizer
from cusa_jax.workdir import CONFIG


def open_source(
    path: str,
    *,
    batch_size: int,
    workers: int,
    tokenizer: str = "",
    dtype: str = "float32",
    shown: bool | None = None,
) -> EmbeddingSource:
    """The folder of a run (its model that validated best), any CLIP, a sentence encoder's folder, or an .npz.

    A model can be named by its Hugging Face id.

    tokenizer: of weights that bring none. dtype: of a model's computation, of `weights.hub.DTYPES`; a sentence encoder
    of no run computes in float32 for 'run'. shown: as `Weights.shown`. Raises InputError where there is none of these.
    """
    if path.endswith(".npz"):
        return ArraySource(path)
    mesh, found = sharding.make_mesh(), find_model(path)
    if _is_sentence_encoder(found):
        encoder = load_text_teacher(str(found), max_length=512, dtype="float32" if dtype == "run" else dtype)
        return SentenceSource(*encoder, mesh, batch_size)
    weights = with_tokenizer(read_weights(found), tokenizer, found)
    variables = sharding.put_params(weights.variables, mesh)
    return StudentSource(
        path, weights.student(dtype), variables, mesh, batch_size, workers, weights.shown(shown)
    )


def _is_sentence_encoder(folder: Path) -> bool:
    """Whether a folder's config.json is that of one encoder: neither a run's, nor a CLIP's with its two."""
    if not (folder / CONFIG).is_file():
        return False
    config = read_json(folder / CONFIG)
    return "model_type" in config and "vision_config" not in config

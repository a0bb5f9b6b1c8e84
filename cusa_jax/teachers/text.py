"""Text teachers: the folder's own tokenizer, an encoder, pooling over tokens, L2 normalisation.

As sentence-transformers computes `encode(normalize_embeddings=True)`, whose folders are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.teachers.folder import ModelFolder, read_json
from cusa_jax.teachers.tokenizer import read_tokenizer
from cusa_jax.types import Params, Teacher

# The modules of sentence-transformers that are computed here.
_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """A frozen text encoder, its parameters apart.

    states: (params, input_ids, attention_mask int32 [B, L]) -> token states float32 [B, L, D].
    max_tokens: the length of the longest text that it has positions for.
    """

    states: Callable[[Params, jax.Array, jax.Array], jax.Array]
    max_tokens: int
    vocab_size: int
    pad_token_id: int


def text_teacher(folder: ModelFolder, encoder: TextEncoder) -> Teacher:
    """The teacher of a folder: features float32 [B, D] of length 1, the same whatever the padding.

    Raises InputError where the tokenizer is missing or not the encoder's, or the pooling is not known.
    """
    path = folder.path
    limit = min(folder.max_length, encoder.max_tokens, read_max_length(path) or folder.max_length)
    tokenizer = read_tokenizer(path)
    if tokenizer.get_vocab_size() > encoder.vocab_size:
        raise InputError(
            f"{path}: the tokenizer knows {tokenizer.get_vocab_size()} tokens, the model only "
            f"{encoder.vocab_size}; they do not belong together"
        )
    # Below that number of tokens the library would cut nothing at all.
    if limit <= tokenizer.num_special_tokens_to_add(is_pair=False):
        raise InputError(f"{path}: a limit of {limit} tokens leaves no room for words; raise max_length")
    tokenizer.enable_truncation(limit)
    tokenizer.no_padding()

    def tokenize(captions: list[str]) -> dict[str, np.ndarray]:
        ids = [encoding.ids for encoding in tokenizer.encode_batch(captions)]
        shape = (len(ids), max(1, *map(len, ids)))
        input_ids, mask = np.full(shape, encoder.pad_token_id, np.int32), np.zeros(shape, np.int32)
        for row, text in enumerate(ids):
            input_ids[row, : len(text)], mask[row, : len(text)] = text, 1
        return {"input_ids": input_ids, "attention_mask": mask}

    return Teacher(folder.name, sentence_features(encoder, read_pooling(path)), "text", tokenize=tokenize)


def sentence_features(
    encoder: TextEncoder, pooling: str
) -> Callable[[Params, dict[str, jax.Array]], jax.Array]:
    """The `apply` of a text teacher. pooling: 'mean' or 'cls', as for `pool`."""

    def apply(params: Params, text: dict[str, jax.Array]) -> jax.Array:
        states = encoder.states(params, text["input_ids"], text["attention_mask"])
        return pool(states, text["attention_mask"], pooling)

    return apply


def pool(states: jax.Array, mask: jax.Array, pooling: str) -> jax.Array:
    """Token states [B, L, D] -> features [B, D] of length 1, over the tokens whose mask [B, L] is 1.

    pooling: 'mean' over the tokens, or 'cls', the first token. Constants: sentence-transformers 2.2.2.
    """
    if pooling == "cls":
        sentence = states[:, 0]
    else:
        weights = mask[:, :, None].astype(states.dtype)
        sentence = (states * weights).sum(1) / jnp.maximum(weights.sum(1), 1e-9)
    return sentence / jnp.maximum(jnp.linalg.norm(sentence, axis=-1, keepdims=True), 1e-12)


def read_pooling(folder: Path) -> str:
    """'mean' or 'cls', as the sentence-transformers files of the folder say; 'mean' where there are none."""
    modules = folder / "modules.json"
    if modules.is_file():
        kinds = [str(module.get("type")).rpartition(".")[2] for module in _read_modules(modules)]
        if unknown := [kind for kind in kinds if kind not in _MODULES]:
            raise InputError(f"{modules}: has a module {unknown[0]}; only {', '.join(_MODULES)} are computed")
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    modes = [key for key, on in read_json(path).items() if key.startswith("pooling_mode_") and on is True]
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in names:
        raise InputError(
            f"{path}: pools by {' and '.join(modes) or 'nothing'}; known is one of {', '.join(names)}"
        )
    return names[modes[0]]


def read_max_length(folder: Path) -> int | None:
    """max_seq_length of the sentence-transformers files of the folder; None where they set none."""
    path = folder / "sentence_bert_config.json"
    value = read_json(path).get("max_seq_length") if path.is_file() else None
    if value is not None and not isinstance(value, int):
        raise InputError(f"{path}: max_seq_length = {value!r} is not a whole number")
    return value


def _read_modules(path: Path) -> list[dict[str, Any]]:
    modules = read_json(path, kind=list)
    if not all(isinstance(module, dict) for module in modules):
        raise InputError(f"{path}: must hold a list of JSON objects")
    return modules

"""Hugging Face's `SiglipModel` folders, of SigLIP and of SigLIP 2 at fixed resolution, both ways by one key table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cusa_jax.data import tokenizer_file
from cusa_jax.files import folder_written_whole
from cusa_jax.jsonfile import write_json
from cusa_jax.models.siglip_sizes import SiglipSizes
from cusa_jax.weights import metadata, siglip_config
from cusa_jax.weights.card import write_card
from cusa_jax.weights.folding import refuse_heads
from cusa_jax.weights.format import CONFIG, Format, Source, without_wrappers
from cusa_jax.weights.hub import Weights, template
from cusa_jax.weights.huggingface import block
from cusa_jax.weights.huggingface_tokenizer import check_subwords, write_tokenizer
from cusa_jax.weights.torch_layout import (
    KeyTable,
    Tensors,
    from_torch,
    read_folder,
    to_torch,
    write_safetensors,
)

IGNORED = {r"(text|vision)_model\.embeddings\.position_ids": "numbers from 0 on, which older files have"}
# What SigLIP starts with (Zhai et al. 2023): a model that was not trained with its loss is written with these.
_START = {"tau_sigmoid": 0.1, "bias_sigmoid": -10.0}
# For sentence-transformers: the folder itself, whose texts are padded to the full length, as the tower sees padding.
_SENTENCE_TRANSFORMERS = {
    "idx": 0,
    "name": "0",
    "path": "",
    "type": "sentence_transformers.models.Transformer",
}
_SENTENCE_TRANSFORMERS_CALLS = {
    "transformer_task": "feature-extraction",
    "processing_kwargs": {"text": {"padding": "max_length"}},
    "modality_config": {
        side: {"method": f"get_{side}_features", "method_output_name": "pooler_output"}
        for side in ("text", "image")
    },
    "module_output_name": "sentence_embedding",
}


def key_table(sizes: SiglipSizes) -> KeyTable:
    """Our parameters and scalars -> their names. Queries, keys and values lie apart in blocks, fused in the pool."""
    pool = "vision_model.head"
    table: dict[str, str | Tensors] = {
        "image/patch_embedding": "vision_model.embeddings.patch_embedding",
        "image/position_embedding": "vision_model.embeddings.position_embedding.weight",
        "image/ln_post": "vision_model.post_layernorm",
        "image/pool/probe": f"{pool}.probe",
        "image/pool/in_proj/kernel": f"{pool}.attention.in_proj_weight",
        "image/pool/in_proj/bias": f"{pool}.attention.in_proj_bias",
        "image/pool/out_proj": f"{pool}.attention.out_proj",
        "image/pool/ln": f"{pool}.layernorm",
        "image/pool/fc": f"{pool}.mlp.fc1",
        "image/pool/proj": f"{pool}.mlp.fc2",
        "text/token_embedding": "text_model.embeddings.token_embedding.weight",
        "text/position_embedding": "text_model.embeddings.position_embedding.weight",
        "text/ln_final": "text_model.final_layer_norm",
        "text/projection": "text_model.head",
        "logit_scale": "logit_scale",
        "logit_bias": "logit_bias",
    }
    for ours, theirs, layers in (
        ("image", "vision_model", sizes.vision_layers),
        ("text", "text_model", sizes.text_layers),
    ):
        for n in range(layers):
            table |= block(f"{ours}/transformer/block_{n}", f"{theirs}.encoder.layers.{n}")
    return table


def _recognises(source: Source) -> bool:
    return str(source.config.get("model_type", "")).startswith("siglip")


def _read(source: Source) -> Weights:
    folder = source.path
    sizes = siglip_config.read_sizes(source)
    check_subwords(folder, sizes.context_length)
    number = jax.ShapeDtypeStruct((1,), jnp.float32)
    shapes = {**template("siglip", sizes, (), folder)["params"], "logit_scale": number, "logit_bias": number}
    params = from_torch(
        without_wrappers(read_folder(folder)),
        shapes,
        key_table(sizes),
        ignored=IGNORED,
        where=folder,
        model="a SigLIP",
    )
    scalars = to_scalars(params.pop("logit_scale"), params.pop("logit_bias"))
    tokenizer = str(folder) if tokenizer_file.in_folder(folder) else ""
    return Weights("siglip", sizes, {"params": params}, scalars=scalars, tokenizer=tokenizer)


def _write(folder: Path, weights: Weights) -> None:
    """The SigLIP alone: weights, config, preprocessing, and the tokenizer where it is known.

    Raises InputError for one with heads.
    """
    refuse_heads(weights, folder)
    sizes = weights.sizes
    tensors = to_torch(weights.towers["params"] | from_scalars(weights.scalars), key_table(sizes))
    with folder_written_whole(folder) as fresh:
        write_safetensors(fresh / "model.safetensors", tensors, {"format": "pt"})
        write_json(fresh / CONFIG, siglip_config.config(sizes))
        write_json(fresh / metadata.PREPROCESSOR, siglip_config.preprocessing(sizes))
        write_tokenizer(fresh, weights)
        write_json(fresh / "modules.json", [_SENTENCE_TRANSFORMERS])
        write_json(fresh / "sentence_bert_config.json", _SENTENCE_TRANSFORMERS_CALLS)
        write_card(fresh, weights, "transformers")


FORMAT = Format("Hugging Face's SigLIP folder", "siglip", _recognises, _read, "", _write)


def to_scalars(logit_scale: np.ndarray, logit_bias: np.ndarray) -> dict[str, np.ndarray]:
    """The sigmoid loss's scalars, float32 []: its logits are S exp(logit_scale) + logit_bias = S / τ + bias."""
    tau = np.exp(-np.asarray(logit_scale, np.float64))
    values = {"tau_sigmoid": tau, "bias_sigmoid": logit_bias}
    return {name: np.asarray(value, np.float32).reshape(()) for name, value in values.items()}


def from_scalars(scalars: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The opposite of `to_scalars`, float32 [1]; what SigLIP starts with where a training had no sigmoid loss."""
    tau, bias = (np.asarray(scalars.get(name, start), np.float64) for name, start in _START.items())
    return {
        "logit_scale": np.asarray([-np.log(tau)], np.float32),
        "logit_bias": np.asarray([bias], np.float32),
    }

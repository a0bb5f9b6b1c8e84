"""OpenAI's CLIP key names, which open_clip and the reference's checkpoints share."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cusa_jax.models.clip import ClipConfig
from cusa_jax.types import Params
from cusa_jax.weights.torch_layout import from_torch

IGNORED = {
    "logit_scale": "CUSA's temperatures replace it (reference clip/model.py:454)",
    "input_resolution|context_length|vocab_size": "sizes, which the shapes say too",
}

_BLOCK = {
    "ln_1": "ln_1",
    "attn/in_proj/kernel": "attn.in_proj_weight",
    "attn/in_proj/bias": "attn.in_proj_bias",
    "attn/out_proj": "attn.out_proj",
    "ln_2": "ln_2",
    "fc": "mlp.c_fc",
    "proj": "mlp.c_proj",
}


def key_table(config: ClipConfig, prefix: str = "") -> dict[str, str]:
    """Our CLIP modules -> OpenAI's keys, each with `prefix` before it (the reference's is 'clip_model.')."""
    table = {
        "image/patch_embedding": "visual.conv1",
        "image/class_embedding": "visual.class_embedding",
        "image/position_embedding": "visual.positional_embedding",
        "image/ln_pre": "visual.ln_pre",
        "image/ln_post": "visual.ln_post",
        "image/projection": "visual.proj",
        "text/token_embedding": "token_embedding.weight",
        "text/position_embedding": "positional_embedding",
        "text/ln_final": "ln_final",
        "text/projection": "text_projection",
    }
    for tower, theirs, layers in (
        ("image", "visual.transformer", config.vision_layers),
        ("text", "transformer", config.text_layers),
    ):
        for n in range(layers):
            for ours, name in _BLOCK.items():
                table[f"{tower}/transformer/block_{n}/{ours}"] = f"{theirs}.resblocks.{n}.{name}"
    return {ours: prefix + name for ours, name in table.items()}


def clip_params(
    tensors: Mapping[str, np.ndarray], config: ClipConfig, template: Params, where: str | Path
) -> Params:
    """{'image': …, 'text': …} in float32 from OpenAI-named tensors.

    template: the same tree, of anything with shapes. Raises InputError listing all keys that do not fit.
    """
    return from_torch(tensors, template, key_table(config), ignored=IGNORED, where=where)

"""OpenAI's CLIP key names, which open_clip and the reference's checkpoints share."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cusa_jax.models.clip import ClipConfig
from cusa_jax.types import Params
from cusa_jax.weights.torch_layout import from_torch

IGNORED = {
    "logit_scale": "CUSA's temperatures replace it (reference clip/model.py:454)",
    r"visual\..*\.num_batches_tracked": "counts the batches of a running mean, which momentum 0.1 does not use",
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
    image = _resnet(config.resnet_blocks) if config.resnet_blocks else _vit(config.vision_layers)
    table = {f"image/{ours}": f"visual.{name}" for ours, name in image.items()} | {
        "text/token_embedding": "token_embedding.weight",
        "text/position_embedding": "positional_embedding",
        "text/ln_final": "ln_final",
        "text/projection": "text_projection",
    }
    table |= {f"text/{ours}": name for ours, name in _transformer(config.text_layers).items()}
    return {ours: prefix + name for ours, name in table.items()}


def variables_table(config: ClipConfig, prefix: str = "") -> dict[str, str]:
    """`key_table` for a tree of linen variables, {'params': …, 'batch_stats': …}."""
    return {
        f"{collection}/{ours}": theirs
        for collection in ("params", "batch_stats")
        for ours, theirs in key_table(config, prefix).items()
    }


def _vit(layers: int) -> dict[str, str]:
    return {
        "patch_embedding": "conv1",
        "class_embedding": "class_embedding",
        "position_embedding": "positional_embedding",
        "ln_pre": "ln_pre",
        "ln_post": "ln_post",
        "projection": "proj",
        **_transformer(layers),
    }


def _transformer(layers: int) -> dict[str, str]:
    return {
        f"transformer/block_{n}/{ours}": f"transformer.resblocks.{n}.{name}"
        for n in range(layers)
        for ours, name in _BLOCK.items()
    }


def _resnet(blocks: tuple[int, ...]) -> dict[str, str]:
    """Modules and the norms' running statistics alike."""
    table = {f"{layer}{n}": f"{layer}{n}" for layer in ("conv", "bn") for n in (1, 2, 3)}
    bottleneck = table | {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    for stage, count in enumerate(blocks, start=1):
        for n in range(count):
            for ours, name in bottleneck.items():
                table[f"layer{stage}_{n}/{ours}"] = f"layer{stage}.{n}.{name}"
    table["attnpool/position_embedding"] = "attnpool.positional_embedding"
    return table | {f"attnpool/{part}_proj": f"attnpool.{part}_proj" for part in "qkvc"}


def clip_variables(
    tensors: Mapping[str, np.ndarray], config: ClipConfig, template: Params, where: str | Path
) -> Params:
    """{'params': {'image': …, 'text': …}} in float32 from OpenAI-named tensors; of a ResNet 'batch_stats' too.

    template: the variables of a DualEncoder, as anything with shapes; heads are left out.
    Raises InputError listing all keys that do not fit.
    """
    towers = {
        name: {tower: collection[tower] for tower in ("image", "text") if tower in collection}
        for name, collection in template.items()
    }
    return from_torch(tensors, towers, variables_table(config), ignored=IGNORED, where=where)

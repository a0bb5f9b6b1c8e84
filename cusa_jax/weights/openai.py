"""OpenAI's CLIP key names, which open_clip and the reference's checkpoints share, and the sizes that shapes tell."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.models.clip import ClipConfig
from cusa_jax.models.layers import ACTIVATIONS
from cusa_jax.types import Params
from cusa_jax.weights.torch_layout import from_torch

IGNORED = {
    "logit_scale": "CUSA's temperatures replace it (reference clip/model.py:454)",
    r"visual\..*\.num_batches_tracked": "counts the batches of a running mean, which momentum 0.1 does not use",
    "input_resolution|context_length|vocab_size": "sizes, which the shapes say too",
    r"(visual\.)?transformer\.resblocks\.\d+\.attn_mask|attn_mask": "the causal mask, a constant",
}
STEM = "visual.layer1.0.conv1.weight"  # of a ResNet; as wide as its stem
RESNET_STRIDE = 32
WIDEST = 1024  # the last width at which every released CLIP has one head per 64 channels

_BLOCK = {
    "ln_1": "ln_1",
    "attn/in_proj/kernel": "attn.in_proj_weight",
    "attn/in_proj/bias": "attn.in_proj_bias",
    "attn/out_proj": "attn.out_proj",
    "ln_2": "ln_2",
    "fc": "mlp.c_fc",
    "proj": "mlp.c_proj",
}


def is_ignored(name: str) -> bool:
    return any(re.fullmatch(rule, name) for rule in IGNORED)


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


def clip_config(tensors: Mapping[str, np.ndarray], activation: str, where: str | Path) -> ClipConfig:
    """The sizes of OpenAI-named weights (as reference clip/model.py:418-447 finds them).

    Raises InputError where they are not those of a CLIP, or do not tell the number of heads.
    """
    try:
        config = ClipConfig(
            embed_dim=tensors["text_projection"].shape[1],
            **(_resnet_sizes(tensors) if STEM in tensors else _vit_sizes(tensors)),
            text_width=tensors["ln_final.weight"].shape[0],
            text_layers=_count(tensors, "transformer.resblocks."),
            context_length=tensors["positional_embedding"].shape[0],
            vocab_size=tensors["token_embedding.weight"].shape[0],
            activation=activation,
        )
    except KeyError as missing:
        raise InputError(f"{where}: not the weights of a CLIP: there is no {missing.args[0]}") from None
    except (IndexError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{where}: not the weights of a CLIP: shapes that no CLIP has ({error})") from None
    if max(config.vision_width, config.text_width) > WIDEST or not (
        config.vision_heads and config.text_heads
    ):
        raise InputError(
            f"{where}: towers of width {config.vision_width} and {config.text_width} do not tell their number of "
            "heads; give the folder with open_clip_config.json or Hugging Face's config.json"
        )
    return config


def _vit_sizes(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    width, _, _, patch_size = tensors["visual.conv1.weight"].shape
    grid = round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5)
    return {
        "image_size": patch_size * grid,
        "patch_size": patch_size,
        "vision_width": width,
        "vision_layers": _count(tensors, "visual.transformer.resblocks."),
    }


def _resnet_sizes(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    grid = round((len(tensors["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
    return {
        "image_size": RESNET_STRIDE * grid,
        "patch_size": RESNET_STRIDE,
        "vision_width": len(tensors[STEM]),
        "vision_layers": 0,
        "resnet_blocks": tuple(_count(tensors, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)),
    }


def _count(tensors: Mapping[str, np.ndarray], prefix: str) -> int:
    return len({key.removeprefix(prefix).partition(".")[0] for key in tensors if key.startswith(prefix)})


def known_activation(said: str | None, asked: str, where: str | Path) -> str:
    """What the file says of its activation, or else what the user says, never a guess.

    Raises InputError where neither says it, or they disagree: the wrong one costs points without any other sign.
    """
    if said and asked and said != asked:
        raise InputError(f"{where}: its activation is {said}, not {asked}")
    if not (said or asked):
        raise InputError(
            f"{where}: does not say its activation; OpenAI's weights have quick_gelu, open_clip's gelu unless their "
            "model is called '…-quickgelu'. Say it by config.model.activation in a training, or once and for all by "
            "`scripts/convert.py IN OUT.safetensors --activation=…`"
        )
    activation = said or asked
    if activation not in ACTIVATIONS:
        raise InputError(f"{where}: activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    return activation

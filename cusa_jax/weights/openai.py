"""OpenAI's CLIP names, which open_clip and the reference's checkpoints share, and the sizes that shapes tell.

.pt files: OpenAI's TorchScript archives, and state dicts under the same names. Of heads, which CLIP has not, the names
are the reference's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.config import ConfigDict
from cusa_jax.errors import InputError
from cusa_jax.models.clip import ClipConfig
from cusa_jax.types import Params
from cusa_jax.weights import metadata, torch_file
from cusa_jax.weights.folding import refuse_heads
from cusa_jax.weights.format import Format, Source
from cusa_jax.weights.hub import HEADS, Weights, head_modules, template
from cusa_jax.weights.torch_layout import from_torch, to_torch

IGNORED = {
    "logit_scale": "an extra: CUSA's temperatures replace it (reference clip/model.py:454)",
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


# --- the key table --------------------------------------------------------------------------------------------


def key_table(sizes: ClipConfig, heads: tuple[str, ...] = (), prefix: str = "") -> dict[str, str]:
    """Our modules -> their keys, the towers' with `prefix` before them (the reference's is 'clip_model.')."""
    image = _resnet(sizes.resnet_blocks) if sizes.resnet_blocks else _vit(sizes.vision_layers)
    table = {f"image/{ours}": f"visual.{name}" for ours, name in image.items()} | {
        "text/token_embedding": "token_embedding.weight",
        "text/position_embedding": "positional_embedding",
        "text/ln_final": "ln_final",
        "text/projection": "text_projection",
    }
    table |= {f"text/{ours}": name for ours, name in _transformer(sizes.text_layers).items()}
    table = {ours: prefix + name for ours, name in table.items()}
    # Of the reference (unire/model.py:40-51).
    for module in head_modules(heads):
        table |= {f"{module}/ln": f"ln_{module}_projection", f"{module}/linear": f"{module}_projection"}
    return table


def variables_table(sizes: ClipConfig, heads: tuple[str, ...] = (), prefix: str = "") -> dict[str, str]:
    """`key_table` for a tree of linen variables, {'params': …, 'batch_stats': …}."""
    return {
        f"{collection}/{ours}": theirs
        for collection in ("params", "batch_stats")
        for ours, theirs in key_table(sizes, heads, prefix).items()
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


# --- weights <-> named tensors --------------------------------------------------------------------------------


def from_tensors(
    sizes: ClipConfig,
    tensors: Mapping[str, np.ndarray],
    where: str | Path,
    scalars: Mapping[str, np.ndarray] | None = None,
    config: ConfigDict | None = None,
) -> Weights:
    """Weights of named tensors of any float dtype, with the heads that are among them.

    Raises InputError that counts the missing, unexpected and unfit keys, and lists some of each.
    """
    heads = tuple(kind for kind in HEADS if any(name in tensors for name in _head_keys(kind)))
    table = variables_table(sizes, heads)
    variables = from_torch(
        tensors, template("clip", sizes, heads, where), table, ignored=IGNORED, where=where
    )
    return Weights("clip", sizes, variables, heads, scalars or {}, config, extras=logit_scale(tensors, where))


def to_tensors(weights: Weights, variables: Params, prefix: str = "") -> dict[str, np.ndarray]:
    """Their names and layouts of a part of a CLIP's variables, in float32, as PyTorch's strict loading asks for them.

    BatchNorms have a `num_batches_tracked`, which CLIP's ResNets do not use.
    """
    tensors = to_torch(variables, variables_table(weights.sizes, weights.heads, prefix))
    means = [name for name in tensors if name.endswith(".running_mean")]
    counters = [f"{name.removesuffix('running_mean')}num_batches_tracked" for name in means]
    return tensors | dict.fromkeys(counters, np.asarray(0, np.int64))


def logit_scale(tensors: Mapping[str, np.ndarray], where: str | Path) -> dict[str, np.ndarray]:
    """{'logit_scale': float32 []}, where the tensors have one. Raises InputError where it is no single number."""
    if "logit_scale" not in tensors:
        return {}
    scale = np.asarray(tensors["logit_scale"], np.float32)
    if scale.size != 1:
        raise InputError(f"{where}: logit_scale has the shape {scale.shape}, not that of a number")
    return {"logit_scale": scale.reshape(())}


def own_logit_scale(weights: Weights) -> np.ndarray:
    """float32 [], which users of CLIP expect: the file's, or the trained temperature's, or what CLIP starts with."""
    trained = -np.log(weights.scalars.get("tau_contrastive", np.float32(0.07)))
    return np.asarray(weights.extras.get("logit_scale", trained), np.float32)


def _head_keys(kind: str) -> list[str]:
    return [
        f"{name}_projection.weight"
        for side in ("image", "text")
        for name in (f"ln_{kind}_{side}", f"{kind}_{side}")
    ]


# --- the format -----------------------------------------------------------------------------------------------


def _recognises(source: Source) -> bool:
    names = _names(source)
    return any(name in names for name in ("text_projection", "ln_final.weight", "visual.proj", STEM))


def _read(source: Source) -> Weights:
    tensors = _names(source)
    # OpenAI's own files are programs, which have its activation.
    said = "quick_gelu" if isinstance(source.pickled, torch_file.Module) else None
    sizes = clip_sizes(tensors, metadata.activation(said, source.activation, source.path), source.path)
    return from_tensors(sizes, tensors, source.path)


def _write(path: Path, weights: Weights) -> None:
    """The CLIP alone, for `clip.build_model`. Raises InputError for one with heads."""
    refuse_heads(weights, path)
    tensors = {"logit_scale": own_logit_scale(weights)} | to_tensors(weights, weights.towers)
    torch_file.write(path, tensors)


def _names(source: Source) -> dict[str, np.ndarray]:
    return unprefixed(source.tensors)


def unprefixed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without what open_clip's CustomTextCLIP puts before the names of the text tower."""
    return {name.removeprefix("text."): tensor for name, tensor in tensors.items()}


FORMAT = Format("OpenAI's names", "clip", _recognises, _read, ".pt", _write)


# --- sizes ----------------------------------------------------------------------------------------------------


def clip_sizes(tensors: Mapping[str, np.ndarray], activation: str, where: str | Path) -> ClipConfig:
    """The sizes of OpenAI-named weights (as reference clip/model.py:418-447 finds them).

    Raises InputError where they are not those of a CLIP, or do not tell the number of heads.
    """
    try:
        sizes = ClipConfig(
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
    if max(sizes.vision_width, sizes.text_width) > WIDEST or not (sizes.vision_heads and sizes.text_heads):
        raise InputError(
            f"{where}: towers of width {sizes.vision_width} and {sizes.text_width} do not tell their number of "
            "heads; give the folder with open_clip_config.json or Hugging Face's config.json"
        )
    return sizes


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
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({match[1] for name in tensors if (match := pattern.match(name))})

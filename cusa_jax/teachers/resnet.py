"""ResNets of ImageNet as image teachers (He et al. 2015): Hugging Face folders of `model_type` resnet.

Their last feature map is what models over regions see of a photograph without a detector; its mean is the teacher's
feature. Batch norms have the statistics of the file. Modules have the file's names (transformers, modeling_resnet).
"""

from __future__ import annotations

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.errors import InputError

_LAYER_TYPES = {"basic": (3, 3), "bottleneck": (1, 3, 1)}
# By which a bottleneck's inner convolutions are narrower.
_REDUCTION = 4
IGNORED_KEYS = {
    r".*num_batches_tracked": "a batch norm's count of training steps",
    r"classifier\..*": "the classes of ImageNet",
}


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Field names are those of Hugging Face's config.json.

    downsample_in_bottleneck: the stride is that of a bottleneck's first convolution, as in the paper, not its second.
    Raises InputError where they contradict one another.
    """

    embedding_size: int
    hidden_sizes: tuple[int, ...]
    depths: tuple[int, ...]
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    def __post_init__(self):
        if len(self.depths) != len(self.hidden_sizes):
            raise InputError(
                f"depths has {len(self.depths)} stages and hidden_sizes {len(self.hidden_sizes)}"
            )
        if self.layer_type not in _LAYER_TYPES:
            raise InputError(
                f"layer_type '{self.layer_type}' is none of {', '.join(map(repr, _LAYER_TYPES))}"
            )
        if self.hidden_act != "relu":
            raise InputError(f"hidden_act '{self.hidden_act}' is not 'relu'")


class ResNet(nn.Module):
    """Normalised pixels [B, H, W, 3] -> the last feature map float32 [B, H/32, W/32, D], after four stages.

    dtype: of the computation; parameters are float32.
    """

    config: ResNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        config = self.config
        x = nn.relu(_Convolved(config.embedding_size, 7, 2, self.dtype, name="embedder")(pixels))
        x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for stage, (width, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
            for layer in range(depth):
                halves = layer == 0 and (stage > 0 or config.downsample_in_first_stage)
                x = _Layer(config, width, 2 if halves else 1, self.dtype, name=f"stage_{stage}_{layer}")(x)
        return x.astype(jnp.float32)


class _Layer(nn.Module):
    """Convolutions around a shortcut: [B, H, W, C] -> [B, H/stride, W/stride, width]."""

    config: ResNetConfig
    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernels = _LAYER_TYPES[self.config.layer_type]
        bottleneck = len(kernels) == 3
        strided = 1 if bottleneck and not self.config.downsample_in_bottleneck else 0
        out = x
        for number, size in enumerate(kernels):
            last = number == len(kernels) - 1
            width = self.width if last or not bottleneck else self.width // _REDUCTION
            stride = self.stride if number == strided else 1
            out = _Convolved(width, size, stride, self.dtype, name=f"layer_{number}")(out)
            out = out if last else nn.relu(out)
        if self.stride > 1 or x.shape[-1] != self.width:
            x = _Convolved(self.width, 1, self.stride, self.dtype, name="shortcut")(x)
        return nn.relu(x + out)


class _Convolved(nn.Module):
    """A convolution and its batch norm, which is linear: one scale and one shift a channel."""

    width: int
    size: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        around = [(self.size // 2, self.size // 2)] * 2
        x = nn.Conv(
            self.width, (self.size,) * 2, self.stride, around, use_bias=False, dtype=self.dtype, name="convolution"
        )(x)  # fmt: skip
        return cast(jax.Array, _BatchNorm(self.dtype, name="normalization")(x))


class _BatchNorm(nn.Module):
    """torch.nn.BatchNorm2d in evaluation, eps 1e-5; the statistics are parameters, as all that is in the file."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        ones, zeros, channels = nn.initializers.ones, nn.initializers.zeros, x.shape[-1:]
        scale = self.param("scale", ones, channels) * jax.lax.rsqrt(self.param("var", ones, channels) + 1e-5)
        shift = self.param("bias", zeros, channels) - self.param("mean", zeros, channels) * scale
        return x * scale.astype(self.dtype) + shift.astype(self.dtype)


def key_table(config: ResNetConfig) -> dict[str, str]:
    """Our modules -> those of a Hugging Face ResNet, less the prefix 'resnet.'."""
    convolved = {"embedder": "embedder.embedder"}
    for stage, depth in enumerate(config.depths):
        for layer in range(depth):
            ours, theirs = f"stage_{stage}_{layer}", f"encoder.stages.{stage}.layers.{layer}"
            convolved[f"{ours}/shortcut"] = f"{theirs}.shortcut"
            for number in range(len(_LAYER_TYPES[config.layer_type])):
                convolved[f"{ours}/layer_{number}"] = f"{theirs}.layer.{number}"
    return {
        f"{ours}/{part}": f"{theirs}.{part}"
        for ours, theirs in convolved.items()
        for part in ("convolution", "normalization")
    }

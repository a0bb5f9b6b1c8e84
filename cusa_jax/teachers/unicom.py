"""UNICOM's vision transformer (An et al., ICLR 2023), CUSA's image teacher.

A pre-LN ViT without class token, with ReLU6 in its MLPs and no bias in qkv (deepglint/unicom,
unicom/vision_transformer.py, in evaluation mode). CUSA takes `forward_features`, all patch tokens flattened:
49 x 768 = 37,632 numbers at ViT-B/32, not the 512 of the projection head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cusa_jax.errors import InputError
from cusa_jax.inputs import CLIP_MEAN, CLIP_STD, Pixels

IGNORED_KEYS = {r"feature\..*": "the projection head: CUSA uses the patch tokens before it"}

LayerCount = int


@dataclasses.dataclass(frozen=True)
class UnicomConfig:
    """Sizes (ViT-B/32: 224, 32, 768, 12, 12). mean and std: of the pixels in [0, 1], per channel.

    Raises InputError where they do not go together.
    """

    image_size: int
    patch_size: int
    dim: int
    depth: LayerCount
    num_heads: int
    mlp_ratio: float = 4.0
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def __post_init__(self):
        if self.dim % self.num_heads:
            raise InputError(f"dim {self.dim} does not divide into {self.num_heads} heads")
        if self.image_size % self.patch_size:
            raise InputError(
                f"image_size {self.image_size} does not divide into patches of {self.patch_size}"
            )
        if min(self.std) <= 0:
            raise InputError(f"std {self.std} is not positive")

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def pixels(self) -> Pixels:
        """What it must be given: resized and cropped as the student's pixels are, normalised by its own numbers."""
        return Pixels(self.image_size, self.mean, self.std)


class Unicom(nn.Module):
    """Normalised pixels [B, image_size, image_size, 3] -> features float32 [B, patches * dim], row by row.

    dtype: of the computation; parameters and the last LayerNorm are float32.
    """

    config: UnicomConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        config = self.config
        patch = (config.patch_size, config.patch_size)
        tokens = nn.Conv(config.dim, patch, strides=patch, padding="VALID", dtype=self.dtype, name="patch")(
            pixels
        )
        tokens = tokens.reshape(-1, config.patches, config.dim)
        position = self.param("pos_embed", nn.initializers.normal(0.02), (1, config.patches, config.dim))
        tokens += position.astype(self.dtype)
        for number in range(config.depth):
            tokens = Block(config, self.dtype, name=f"block_{number}")(tokens)
        tokens = layer_norm(jnp.float32, "norm")(tokens)
        return tokens.reshape(tokens.shape[0], -1)


class Block(nn.Module):
    """Pre-LN transformer block: [B, L, D] -> [B, L, D]."""

    config: UnicomConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        config = self.config
        batch, length, width = tokens.shape

        def dense(features: int, name: str, bias: bool = True) -> nn.Dense:
            initial = nn.initializers.normal(0.02)
            return nn.Dense(features, use_bias=bias, kernel_init=initial, dtype=self.dtype, name=name)

        normed = layer_norm(self.dtype, "norm1")(tokens)
        qkv = dense(3 * width, "qkv", bias=False)(normed).reshape(batch, length, 3, config.num_heads, -1)
        attended = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0))
        tokens += dense(width, "proj")(attended.reshape(batch, length, width))

        hidden = nn.relu6(
            dense(int(config.mlp_ratio * width), "fc1")(layer_norm(self.dtype, "norm2")(tokens))
        )
        return tokens + dense(width, "fc2")(hidden)


def layer_norm(dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(1e-5, dtype=dtype, use_fast_variance=False, name=name)


def config_of(tensors: Mapping[str, np.ndarray]) -> UnicomConfig:
    """The sizes of a released checkpoint, whose heads are of 64 channels each.

    Raises KeyError where a tensor is missing, and InputError or ValueError where shapes are not those of UNICOM.
    """
    dim, _, _, patch_size = tensors["patch_embed.proj.weight"].shape
    _, patches, _ = tensors["pos_embed"].shape
    blocks = {key.split(".")[1] for key in tensors if key.startswith("blocks.")}
    return UnicomConfig(
        image_size=round(patches**0.5) * patch_size,
        patch_size=patch_size,
        dim=dim,
        depth=len(blocks),
        num_heads=dim // 64,
        mlp_ratio=len(tensors["blocks.0.mlp.fc1.weight"]) / dim,
    )


def key_table(config: UnicomConfig) -> dict[str, str]:
    """Our modules -> the modules of a UNICOM checkpoint."""
    table = {"patch": "patch_embed.proj", "pos_embed": "pos_embed", "norm": "norm"}
    block = {
        "norm1": "norm1",
        "qkv": "attn.qkv",
        "proj": "attn.proj",
        "norm2": "norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    }
    for number in range(config.depth):
        table |= {f"block_{number}/{ours}": f"blocks.{number}.{theirs}" for ours, theirs in block.items()}
    return table

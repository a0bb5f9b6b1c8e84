"""CLIP's sizes and its transformer towers, for images and for text (reference clip/model.py); ResNets: resnet.py."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.errors import InputError
from cusa_jax.models.layers import LayerNorm, Transformer


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Sizes of a CLIP model. Heads default to one per 64 channels, the rule of every released CLIP.

    patch_size: pixels per side of what one visual token covers; 32 in every ResNet.
    vision_width: of a ViT, or the channels behind a ResNet's stem.
    vision_layers: blocks of a ViT; 0 in a ResNet, whose four stages have `resnet_blocks` bottlenecks each.
    activation: of the transformers; ResNets have ReLU.
    """

    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    context_length: int = 77
    vocab_size: int = 49408
    activation: str = "quick_gelu"
    vision_heads: int = 0
    text_heads: int = 0
    resnet_blocks: tuple[int, ...] = ()

    def __post_init__(self):
        # A ResNet pools over the channels of its last stage: 32 times the stem's.
        widths = {"vision": self.vision_width * (32 if self.resnet_blocks else 1), "text": self.text_width}
        for tower, width in widths.items():
            if not getattr(self, f"{tower}_heads"):
                object.__setattr__(self, f"{tower}_heads", width // 64)
        if self.image_size % self.patch_size:
            raise InputError(
                f"model: image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )


PRESETS = {
    "vit_b_32": ClipConfig(512, 224, 32, 768, 12, 512, 12),
    "vit_b_16": ClipConfig(512, 224, 16, 768, 12, 512, 12),
    "vit_l_14": ClipConfig(768, 224, 14, 1024, 24, 768, 12),
    "vit_l_14_336": ClipConfig(768, 336, 14, 1024, 24, 768, 12),
    "rn50": ClipConfig(1024, 224, 32, 64, 0, 512, 12, resnet_blocks=(3, 4, 6, 3)),
    "rn101": ClipConfig(512, 224, 32, 64, 0, 512, 12, resnet_blocks=(3, 4, 23, 3)),
    "rn50x4": ClipConfig(640, 288, 32, 80, 0, 640, 12, resnet_blocks=(4, 6, 10, 6)),
    "rn50x16": ClipConfig(768, 384, 32, 96, 0, 768, 12, resnet_blocks=(6, 8, 18, 8)),
    "rn50x64": ClipConfig(1024, 448, 32, 128, 0, 1024, 12, resnet_blocks=(3, 15, 36, 10)),
    # The embedded world's student: same code, real tokens, two minutes on two cores.
    "toy": ClipConfig(64, 32, 8, 64, 2, 64, 2),
}


def preset_name(config: ClipConfig) -> str | None:
    """The name of the preset with these sizes, else None."""
    return next((name for name, preset in PRESETS.items() if preset == config), None)


def check_pixels(pixels: jax.Array, config: ClipConfig) -> None:
    """Raises InputError unless pixels are [B, image_size, image_size, 3]."""
    if pixels.shape[1:] != (config.image_size, config.image_size, 3):
        raise InputError(
            f"images of shape {pixels.shape[1:]}, but the model takes {config.image_size} px squares"
        )


class PatchEmbedding(nn.Module):
    """Pixels [B, H, W, 3] -> [B, patches, width], row by row: CLIP's convolution with stride = kernel, no bias.

    Written as one matmul, whose gradient is far cheaper on CPU than the convolution's.
    """

    patch_size: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        p, grid = self.patch_size, pixels.shape[1] // self.patch_size
        init = nn.initializers.lecun_normal(in_axis=(0, 1, 2))
        kernel = self.param("kernel", init, (p, p, 3, self.width)).astype(self.dtype)
        patches = pixels.astype(self.dtype).reshape(-1, grid, p, grid, p, 3).swapaxes(2, 3)
        return patches.reshape(-1, grid * grid, p * p * 3) @ kernel.reshape(p * p * 3, self.width)


class VisionTransformer(nn.Module):
    """Normalised pixels [B, H, W, 3] -> features [B, E]: the class token, projected. The same in training."""

    config: ClipConfig
    remat: bool
    dtype: jnp.dtype
    attention: str = "xla"

    @nn.compact
    def __call__(self, pixels: jax.Array, train: bool = False) -> jax.Array:
        c = self.config
        init = nn.initializers.normal(c.vision_width**-0.5)
        check_pixels(pixels, c)
        x = PatchEmbedding(c.patch_size, c.vision_width, self.dtype, name="patch_embedding")(pixels)
        class_token = self.param("class_embedding", init, (c.vision_width,))
        x = jnp.concatenate(
            [jnp.broadcast_to(class_token, (len(x), 1, c.vision_width)).astype(x.dtype), x], axis=1
        )
        x = x + self.param("position_embedding", init, x.shape[1:]).astype(x.dtype)
        x = LayerNorm(dtype=self.dtype, name="ln_pre")(x)
        compute = self.remat, self.dtype, self.attention
        x = Transformer(c.vision_layers, c.vision_heads, False, c.activation, *compute, name="transformer")(x)
        x = LayerNorm(dtype=self.dtype, name="ln_post")(x[:, 0])
        return x @ self.param("projection", init, (c.vision_width, c.embed_dim)).astype(x.dtype)


class TextTransformer(nn.Module):
    """Token ids int32 [B, L] -> features [B, E]: the end-of-text position, projected.

    L may be anything up to the context length: attention is causal and padding follows the end-of-text token,
    so cutting the padding leaves the feature as it is.
    """

    config: ClipConfig
    remat: bool
    dtype: jnp.dtype
    attention: str = "xla"

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        embedding = self.param("token_embedding", nn.initializers.normal(0.02), (c.vocab_size, c.text_width))
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.01), (c.context_length, c.text_width)
        )
        if tokens.shape[1] > c.context_length:
            raise InputError(f"captions of {tokens.shape[1]} tokens, but the model takes {c.context_length}")
        x = (embedding[tokens] + positions[: tokens.shape[1]]).astype(self.dtype)
        compute = self.remat, self.dtype, self.attention
        x = Transformer(c.text_layers, c.text_heads, True, c.activation, *compute, name="transformer")(x)
        x = LayerNorm(dtype=self.dtype, name="ln_final")(x)
        # End-of-text is the highest id of the vocabulary, and argmax takes the first of several.
        x = x[jnp.arange(len(x)), tokens.argmax(axis=-1)]
        init = nn.initializers.normal(c.text_width**-0.5)
        return x @ self.param("projection", init, (c.text_width, c.embed_dim)).astype(x.dtype)

"""SigLIP as a student: its towers, without class token and causal mask (Zhai et al. 2023, arXiv:2303.15343)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels, Text
from cusa_jax.models.clip_sizes import check_pixels
from cusa_jax.models.dual_encoder import DualEncoder, DualEncoderStudent
from cusa_jax.models.layers import LayerNorm, PatchEmbedding, Transformer, attend, feed_forward
from cusa_jax.models.siglip_sizes import PRESETS, SiglipSizes
from cusa_jax.models.student import Family, Options


def inputs(sizes: SiglipSizes, tokenizer: str = "") -> Inputs:
    """SigLIP's preprocessing, which squashes pictures, and tokens of full length: their padding is seen.

    tokenizer: the file or folder that holds the weights' own; SigLIP has none that comes with this package.
    """
    return Inputs(
        Pixels(sizes.image_size, sizes.mean, sizes.std, "squash", sizes.resampling),
        Text(sizes.context_length, sizes.vocab_size, tokenizer, sizes.pad_id, may_cut=False),
    )


def student(sizes: SiglipSizes, options: Options) -> DualEncoderStudent:
    """A SigLIP with the heads of `options`; without any, its embeddings are those of the released models."""
    compute = options.remat, jnp.dtype(options.dtype), options.attention
    towers = VisionTower(sizes, *compute), TextTower(sizes, *compute)
    return DualEncoderStudent(
        "siglip",
        sizes,
        inputs(sizes, options.tokenizer),
        DualEncoder(*towers, options.heads, options.head_kind),
    )


FAMILY = Family(SiglipSizes, PRESETS, student)


class VisionTower(nn.Module):
    """Normalised pixels [B, H, W, 3] -> features [B, E], pooled by attention. The same in training."""

    sizes: SiglipSizes
    remat: bool
    dtype: jnp.dtype
    attention: str = "xla"

    @nn.compact
    def __call__(self, pixels: jax.Array, train: bool = False) -> jax.Array:
        s = self.sizes
        check_pixels(pixels, s.image_size)
        x = PatchEmbedding(s.patch_size, s.vision_width, self.dtype, bias=True, name="patch_embedding")(
            pixels
        )
        init = nn.initializers.normal(s.vision_width**-0.5)
        x = x + self.param("position_embedding", init, x.shape[1:]).astype(x.dtype)
        x = Transformer(
            s.vision_layers,
            s.vision_heads,
            causal=False,
            activation=s.vision_activation,
            remat=self.remat,
            dtype=self.dtype,
            attention=self.attention,
            mlp_width=s.vision_mlp,
            epsilon=s.vision_epsilon,
            name="transformer",
        )(x)
        x = LayerNorm(epsilon=s.vision_epsilon, dtype=self.dtype, name="ln_post")(x)
        pool = s.vision_heads, s.vision_mlp, s.vision_activation, s.vision_epsilon
        return AttentionPool(*pool, self.dtype, name="pool")(x)


class TextTower(nn.Module):
    """Token ids int32 [B, context_length] -> features [B, E]: the last position, whatever it holds, projected.

    Every position sees every other, padding too, so that captions cannot be cut.
    """

    sizes: SiglipSizes
    remat: bool
    dtype: jnp.dtype
    attention: str = "xla"

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
        s = self.sizes
        if tokens.shape[1] != s.context_length:
            raise InputError(
                f"captions of {tokens.shape[1]} tokens, but SigLIP takes them filled up to {s.context_length}: "
                "it pools the last"
            )
        embedding = self.param("token_embedding", nn.initializers.normal(0.02), (s.vocab_size, s.text_width))
        shape = s.context_length, s.text_width
        positions = self.param("position_embedding", nn.initializers.normal(0.01), shape)
        x = (embedding[tokens] + positions).astype(self.dtype)
        x = Transformer(
            s.text_layers,
            s.text_heads,
            causal=False,
            activation=s.text_activation,
            remat=self.remat,
            dtype=self.dtype,
            attention=self.attention,
            mlp_width=s.text_mlp,
            epsilon=s.text_epsilon,
            name="transformer",
        )(x)
        x = LayerNorm(epsilon=s.text_epsilon, dtype=self.dtype, name="ln_final")(x)
        init = nn.initializers.normal(s.text_width**-0.5)
        return nn.Dense(s.embed_dim, kernel_init=init, dtype=self.dtype, name="projection")(x[:, -1])


class AttentionPool(nn.Module):
    """x [B, L, W] -> [B, W]: what one learned query, the probe, sees of a row, then an MLP as in a block (MAP head)."""

    heads: int
    mlp_width: int
    activation: str
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        init = nn.initializers.normal(width**-0.5)
        probe = self.param("probe", init, (1, 1, width)).astype(self.dtype)
        query, key, value = InProjection(self.dtype, name="in_proj")(probe, x)
        split = self.heads, width // self.heads
        query = jnp.broadcast_to(query.reshape(1, 1, *split), (batch, 1, *split))
        pooled = attend(
            query, key.reshape(batch, length, *split), value.reshape(batch, length, *split), causal=False
        )
        pooled = nn.Dense(width, kernel_init=init, dtype=self.dtype, name="out_proj")(
            pooled.reshape(batch, width)
        )
        normed = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="ln")(pooled)
        return pooled + feed_forward(normed, self.mlp_width, self.activation, width**-0.5, self.dtype)


class InProjection(nn.Module):
    """(rows [.., W] that ask, rows [.., W] that are asked) -> queries, keys and values [.., W].

    One kernel [W, 3 W] and one bias as in torch.nn.MultiheadAttention.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, asking: jax.Array, asked: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        width = asked.shape[-1]
        init = nn.initializers.normal(width**-0.5)
        kernel = self.param("kernel", init, (width, 3 * width)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * width,)).astype(self.dtype)
        key, value = jnp.split(asked @ kernel[:, width:] + bias[width:], 2, axis=-1)
        return asking @ kernel[:, :width] + bias[:width], key, value

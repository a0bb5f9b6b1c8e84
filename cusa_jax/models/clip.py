"""CLIP as a student: its transformer towers, for images and for text (reference clip/model.py); ResNets: resnet.py."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels, Text
from cusa_jax.models.clip_sizes import PRESETS, ClipConfig, TextSizes, check_pixels
from cusa_jax.models.dual_encoder import DualEncoder, DualEncoderStudent
from cusa_jax.models.layers import LayerNorm, PatchEmbedding, Transformer
from cusa_jax.models.resnet import ModifiedResNet
from cusa_jax.models.student import Family, Options


def inputs(sizes: ClipConfig) -> Inputs:
    """CLIP's preprocessing and tokens; attention is causal, so that padding behind a caption may be cut."""
    return Inputs(
        Pixels(sizes.image_size, sizes.mean, sizes.std, sizes.resize, sizes.resampling),
        Text(sizes.context_length, sizes.vocab_size),
    )


def student(sizes: ClipConfig, options: Options) -> DualEncoderStudent:
    """A CLIP with the heads of `options`. Raises InputError for a tokenizer that is not CLIP's."""
    check_tokenizer(options)
    dtype = jnp.dtype(options.dtype)
    image: nn.Module = (
        ModifiedResNet(sizes, options.remat, dtype)
        if sizes.resnet_blocks
        else VisionTransformer(sizes, options.remat, dtype, options.attention)
    )
    text = TextTransformer(sizes, options.remat, dtype, options.attention)
    return DualEncoderStudent(
        family="clip",
        sizes=sizes,
        inputs=inputs(sizes),
        module=DualEncoder(image, text, options.heads, options.head_kind),
        # A ResNet's batch norms look at all rows.
        rows_independent=not sizes.resnet_blocks,
    )


def check_tokenizer(options: Options) -> None:
    """Raises InputError where CLIP's text tower should read with another tokenizer than its own."""
    if options.tokenizer not in ("", "clip"):
        raise InputError(
            f"config.model.tokenizer='{options.tokenizer}': a CLIP has a tokenizer of its own; leave it empty"
        )


FAMILY = Family(ClipConfig, PRESETS, student)


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
        check_pixels(pixels, c.image_size)
        x = PatchEmbedding(c.patch_size, c.vision_width, self.dtype, name="patch_embedding")(pixels)
        class_token = self.param("class_embedding", init, (c.vision_width,))
        x = jnp.concatenate(
            [jnp.broadcast_to(class_token, (x.shape[0], 1, c.vision_width)).astype(x.dtype), x], axis=1
        )
        x = x + self.param("position_embedding", init, x.shape[1:]).astype(x.dtype)
        x = LayerNorm(dtype=self.dtype, name="ln_pre")(x)
        transformer = (
            c.vision_layers,
            c.vision_heads,
            False,
            c.activation,
            self.remat,
            self.dtype,
            self.attention,
        )
        x = Transformer(*transformer, c.vision_mlp, name="transformer")(x)
        x = LayerNorm(dtype=self.dtype, name="ln_post")(x[:, 0])
        return x @ self.param("projection", init, (c.vision_width, c.embed_dim)).astype(x.dtype)


class TextTransformer(nn.Module):
    """Token ids int32 [B, L] -> features [B, E]: the end-of-text position, projected.

    L may be anything up to the context length: attention is causal and padding follows the end-of-text token,
    so cutting the padding leaves the feature as it is.
    """

    config: TextSizes
    remat: bool
    dtype: jnp.dtype
    attention: str = "xla"

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
        c = self.config
        embedding = self.param("token_embedding", nn.initializers.normal(0.02), (c.vocab_size, c.text_width))
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.01), (c.context_length, c.text_width)
        )
        if tokens.shape[1] > c.context_length:
            raise InputError(f"captions of {tokens.shape[1]} tokens, but the model takes {c.context_length}")
        x = (embedding[tokens] + positions[: tokens.shape[1]]).astype(self.dtype)
        transformer = c.text_layers, c.text_heads, True, c.activation, self.remat, self.dtype, self.attention
        x = Transformer(*transformer, c.text_mlp, name="transformer")(x)
        x = LayerNorm(dtype=self.dtype, name="ln_final")(x)
        # End-of-text is the highest id of the vocabulary, and argmax takes the first of several.
        x = x[jnp.arange(x.shape[0]), tokens.argmax(axis=-1)]
        init = nn.initializers.normal(c.text_width**-0.5)
        return x @ self.param("projection", init, (c.text_width, c.embed_dim)).astype(x.dtype)

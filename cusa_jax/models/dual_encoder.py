"""The student: CLIP with up to two pairs of heads, as pure init/apply functions over a params pytree."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.models.clip import ClipConfig, TextTransformer, VisionTransformer
from cusa_jax.models.heads import ProjectionHead
from cusa_jax.models.resnet import ModifiedResNet
from cusa_jax.types import Embeddings, Params


class DualEncoder(nn.Module):
    """CLIP plus heads. `cross_heads` serve the contrastive and CSA losses, `uni_heads` serve USA.

    Parameter tree: {'image': …, 'text': …, '{cross,uni}_{image,text}': {'ln', 'linear'}}.
    Without a pair of heads its embeddings are the raw CLIP features (reference unire/model.py:148-166).
    A ResNet has a second collection, 'batch_stats', used as it is unless `train`, which replaces it.
    """

    clip: ClipConfig
    cross_heads: bool = True
    uni_heads: bool = True
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    attention: str = "xla"

    def setup(self):
        compute = self.remat, self.dtype
        self.image = (
            ModifiedResNet(self.clip, *compute)
            if self.clip.resnet_blocks
            else VisionTransformer(self.clip, *compute, self.attention)
        )
        self.text = TextTransformer(self.clip, *compute, self.attention)
        if self.cross_heads:
            self.cross_image, self.cross_text = ProjectionHead(), ProjectionHead()
        if self.uni_heads:
            self.uni_image, self.uni_text = ProjectionHead(), ProjectionHead()

    def __call__(self, pixels: jax.Array, tokens: jax.Array, train: bool = False) -> Embeddings:
        """Normalised pixels [B, H, W, 3] and token ids [B, L] -> Embeddings, each [B, E]."""
        cross_image, uni_image = self.encode_image(pixels, train)
        cross_text, uni_text = self.encode_text(tokens)
        return Embeddings(cross_image, cross_text, uni_image, uni_text)

    def encode_image(self, pixels: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Normalised pixels [B, H, W, 3] -> (cross-modal, uni-modal) embeddings, each [B, E]."""
        features = _at_least_float32(self.image(pixels, train))
        return (
            self.cross_image(features) if self.cross_heads else features,
            self.uni_image(features) if self.uni_heads else features,
        )

    def encode_text(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Token ids int32 [B, L] -> (cross-modal, uni-modal) embeddings, each [B, E]."""
        features = _at_least_float32(self.text(tokens))
        return (
            self.cross_text(features) if self.cross_heads else features,
            self.uni_text(features) if self.uni_heads else features,
        )


def init_variables(model: DualEncoder, key: jax.Array) -> Params:
    """Fresh float32 {'params': …}, and 'batch_stats' of a ResNet.

    Heads draw from their own keys, so adding USA leaves the rest as it was.
    """
    c = model.clip
    pixels = jnp.zeros((1, c.image_size, c.image_size, 3))
    tokens = jnp.zeros((1, c.context_length), jnp.int32)
    return model.init(key, pixels, tokens)


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

"""Projection heads between the towers and the losses: the paper's (reference unire/model.py:40-51,187-191), and one
that starts as the identity."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.models.layers import LayerNorm, torch_linear_bias

HeadKind = Literal["linear", "residual"]


class ProjectionHead(nn.Module):
    """CLIP features [B, E] -> W LN(f) + b, [B, E] in float32 or wider, not normalised. No residual."""

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        features = LayerNorm(dtype=features.dtype, name="ln")(features)
        return nn.Dense(
            features.shape[-1],
            kernel_init=nn.initializers.normal(0.02),
            bias_init=torch_linear_bias(features.shape[-1]),
            dtype=features.dtype,
            name="linear",
        )(features)


class ResidualHead(nn.Module):
    """Features f [B, E] -> f + W f + b, [B, E] in float32 or wider, not normalised; W and b start at 0.

    At step 0 it is the identity. It is affine, with no norm before it, so that it can be folded into an affine layer
    that precedes it (weights/folding.py).
    """

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        zeros = nn.initializers.zeros
        linear = nn.Dense(features.shape[-1], kernel_init=zeros, dtype=features.dtype, name="linear")
        return features + linear(features)


HEADS: dict[HeadKind, type[nn.Module]] = {"linear": ProjectionHead, "residual": ResidualHead}

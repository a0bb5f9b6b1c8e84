"""Projection heads between CLIP and the losses (reference unire/model.py:40-51,187-191)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.models.layers import LayerNorm, torch_linear_bias


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

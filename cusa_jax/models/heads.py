"""Projection heads between CLIP and the losses (reference unire/model.py:40-51,187-191)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.models.layers import LayerNorm


def _torch_linear_bias(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """torch.nn.Linear's default bias, U(-1/sqrt(E), 1/sqrt(E)) for a square E x E layer."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class ProjectionHead(nn.Module):
    """CLIP features [B, E] -> W LN(f) + b, [B, E] in float32 or wider, not normalised. No residual."""

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        features = LayerNorm(dtype=features.dtype, name="ln")(features)
        return nn.Dense(
            features.shape[-1],
            kernel_init=nn.initializers.normal(0.02),
            bias_init=_torch_linear_bias,
            dtype=features.dtype,
            name="linear",
        )(features)

"""Features of any scale: their cosines must not depend on whether float32 can hold a squared norm."""

import jax
import jax.numpy as jnp


def in_range(features: jax.Array) -> jax.Array:
    """Features [B, D], each row times the power of two that brings its largest magnitude into [0.5, 1).

    Such a factor changes no digit of any number, so that cosines stay the same to the last bit; norms neither
    overflow at 1e30 nor vanish at 1e-30. Rows of zeros, and rows that hold a NaN or an infinity, stay as they are.
    """
    largest = jnp.abs(features).max(axis=-1, keepdims=True)
    _, exponent = jnp.frexp(largest)
    return jnp.ldexp(features, -exponent)

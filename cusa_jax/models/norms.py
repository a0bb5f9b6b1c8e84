"""Division by a length, as SGRAF does it: an epsilon is added to the length, and a row of zeros stays one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

EPSILON = 1e-8


def l2norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """x / (sqrt(Σ x²) + 1e-8) along an axis; the gradient at zeros is finite, where torch's is NaN."""
    return x / (safe_sqrt((x * x).sum(axis, keepdims=True)) + EPSILON)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """sqrt(x) of x >= 0, whose gradient at zero is zero."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)

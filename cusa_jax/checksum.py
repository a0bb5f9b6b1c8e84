"""Checksums of arrays, taken where they are: one number for each, whatever the mesh that they are split over.

The sum, modulo 2^32, of a hash of every 32-bit word together with its position. For one position the hash is a
bijection of the word, so that a single changed word always shows; words that change places, or several changes that
would cancel out in a plain sum, show but for one time in 2^32. One pass over memory.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cusa_jax.distributed import together

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # a leaf's bits, by its bytes per number


def checksums(tree: Any) -> list[int]:
    """One number per leaf, in the order of `jax.tree.leaves`."""
    return [int(n) for n in jax.device_get(_positioned(jax.tree.leaves(tree)))]


def sums_of_old(tree: Any) -> list[int]:
    """The checksums of checkpoints that do not say a format: the plain sum of all words."""
    return [int(n) for n in jax.device_get(_plain(jax.tree.leaves(tree)))]


@together
@jax.jit
def _positioned(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_hash(_words(leaf)).sum(dtype=jnp.uint32) for leaf in leaves]


@together
@jax.jit
def _plain(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_words(leaf).sum(dtype=jnp.uint32) for leaf in leaves]


def _words(leaf: jax.Array) -> jax.Array:
    """uint32 of the leaf's shape; of numbers of 8 bytes, with an axis of two more."""
    bits = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
    return jax.lax.bitcast_convert_type(bits, _WORDS[leaf.dtype.itemsize]).astype(jnp.uint32)


def _hash(words: jax.Array) -> jax.Array:
    """Every word mixed with its position by multiplications by odd numbers and shifts, each of them a bijection."""
    position, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    mixed = words + position * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return mixed ^ (mixed >> 15)

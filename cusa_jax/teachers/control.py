"""The controls: teachers that know nothing.

A gain that a control reproduces is label smoothing, not the teacher's knowledge.
'shuffled' is a fixed permutation of the samples that the teachers see: the data pipeline applies it, and the
teachers are the trained ones. 'uniform' gives every sample a random direction, so that all samples are equally
(un)like each other.
"""

import functools

import jax

from cusa_jax.types import Params, Teacher, Teachers

UNIFORM_DIM = 512


def uniform_teachers() -> tuple[Teachers, Params]:
    """The 'uniform' control, and its parameters, of which there are none: features depend on a sample's number."""

    def teacher(side: int) -> Teacher:
        return Teacher("uniform", functools.partial(_random_directions, side), "index")

    return Teachers(image=teacher(0), text=teacher(1)), {"image": {}, "text": {}}


def _random_directions(side: int, _: Params, index: jax.Array) -> jax.Array:
    """float32 [B, UNIFORM_DIM], nearly orthogonal between samples."""
    root = jax.random.key(side)
    return jax.vmap(lambda n: jax.random.normal(jax.random.fold_in(root, n), (UNIFORM_DIM,)))(index)

"""Fewer numbers with the same inner products: UNICOM's 37,632 are more than soft labels need."""

import dataclasses
import functools

import jax
import numpy as np
from jax.scipy.fft import dct
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from cusa_jax.types import Params, Teacher

_ROWS_AT_ONCE = 256


def projected_width(dim: int, width: int) -> int:
    """What is left of `dim` numbers under `teacher.width`: 0 keeps them, and so does a width that is no smaller."""
    return width if 0 < width < dim else dim


def project(features: jax.Array, width: int) -> jax.Array:
    """Random projection of float32 [B, D] to [B, projected_width(D, width)] that keeps inner products.

    Unbiased: a subsampled randomised cosine transform, √(D/width) · R C S x, with random signs S, orthonormal DCT C
    and `width` random rows R (Halko, Martinsson and Tropp 2011, §4.6, with the DCT for the Fourier transform). The
    cosine of two features that is ρ gets an error of standard deviation about (1 - ρ²) √((1 - width/D) / width).
    """
    dim = features.shape[-1]
    if projected_width(dim, width) == dim:
        return features
    # The same signs and rows for all features: constants of the compiled program, of `dim` numbers.
    draw = np.random.default_rng(0)
    signs, rows = draw.choice([-1, 1], dim), draw.permutation(dim)[:width]
    return dct(features * signs.astype(features.dtype), norm="ortho")[:, rows] * (dim / width) ** 0.5


def project_rows(features: np.ndarray, width: int) -> np.ndarray:
    """`project` of a table float [N, D] in host memory: float32, or the table itself where nothing is to be done."""
    narrow = projected_width(features.shape[1], width)
    if narrow == features.shape[1]:
        return features
    compiled = jax.jit(functools.partial(project, width=width))
    table = np.empty((len(features), narrow), np.float32)
    for start in range(0, len(features), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        table[rows] = compiled(features[rows].astype(np.float32))
    return table


def narrowed(teacher: Teacher, width: int, mesh: Mesh) -> Teacher:
    """A live teacher whose features have at most `width` numbers; 0 leaves them. mesh: for its inputs."""
    if not width:
        return teacher
    rows = P(mesh.axis_names)
    # Each device projects its own rows: XLA would gather all of them onto every device (jax-ml/jax#15680).
    of_rows = jax.shard_map(functools.partial(project, width=width), mesh=mesh, in_specs=rows, out_specs=rows)

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        return of_rows(teacher.apply(params, inputs))

    return dataclasses.replace(teacher, apply=apply)

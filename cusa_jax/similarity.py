"""From features to the similarity matrices that the losses compare.

Global negatives (`groups=1`): one [B, B] problem over the whole batch, with its true gradient.
Local negatives: the batch is cut into groups of consecutive rows, each its own [B/groups, B/groups] problem, and
the losses average over groups. That is what the reference ships: 4 GPUs x 128 rows never see each other's
negatives (`is_all_gather: False`). Grouping depends on rows, not on devices, so a run gives the same
losses on one device as on eight, and with one group per device no features travel.
"""

import jax
import jax.numpy as jnp

from cusa_jax.types import Embeddings, Similarities, SoftLabels


def student(embeddings: Embeddings, groups: int = 1) -> Similarities:
    """Embeddings [B, E] -> cosine similarities [groups, B/groups, B/groups] (no group axis for groups=1)."""
    unit = jax.tree.map(lambda x: _group(x, groups), student_directions(embeddings))
    return Similarities(
        image_text=_inner(unit.cross_image, unit.cross_text),
        image_image=_inner(unit.uni_image, unit.uni_image),
        text_text=_inner(unit.uni_text, unit.uni_text),
    )


def teacher(image_features: jax.Array, text_features: jax.Array, groups: int = 1) -> SoftLabels:
    """Teacher features [B, D] -> cosine similarities, frozen; self-similarity stays on the diagonal."""

    def gram(features: jax.Array) -> jax.Array:
        unit = _group(teacher_directions(features), groups)
        return _inner(unit, unit)

    return SoftLabels(image=gram(image_features), text=gram(text_features))


def student_directions(embeddings: Embeddings) -> Embeddings:
    """Embeddings [B, E] -> unit vectors [B, E], float32 or wider.

    No floor under the norm (reference unire/model.py:168-171): an all-zero embedding is a broken model, and its
    NaN reaches the loss, where training stops and names it.
    """
    return jax.tree.map(unit, embeddings)


def teacher_directions(features: jax.Array) -> jax.Array:
    """Teacher features [B, D] -> unit vectors [B, D], float32 or wider, frozen.

    Norms have a floor of 1e-12 (sentence-transformers' `util.cos_sim`, reference unire/model.py:364-369).
    """
    return unit(jax.lax.stop_gradient(features), floor=1e-12)


def centred(features: jax.Array) -> jax.Array:
    """Teacher features [B, D] -> their unit vectors [B, D] less the mean of these over the batch.

    The features of some networks share a direction, such as those behind a ReLU: all their cosines are high, and
    soft labels nearly uniform. What tells samples apart is what is left without it.
    """
    directions = teacher_directions(features)
    return directions - directions.mean(axis=0)


def unit(x: jax.Array, floor: float = 0.0) -> jax.Array:
    """[..., D] divided by its norm, or by `floor` where that is more; float32 or wider."""
    x = at_least_float32(x)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / (jnp.maximum(norm, floor) if floor else norm)


def cosines(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Cosine similarities float32 (or wider) [M, N] of embeddings [M, E] and [N, E]."""
    return _inner(unit(rows), unit(columns))


def group_ids(ids: jax.Array, groups: int = 1) -> jax.Array:
    """Image numbers int [B] -> [groups, B/groups], cut the way the similarities are."""
    return _group(ids, groups)


def _group(x: jax.Array, groups: int) -> jax.Array:
    return x if groups == 1 else x.reshape(groups, -1, *x.shape[1:])


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """a bᵀ over the last two axes, in full precision on every backend (GPUs would use TF32)."""
    return jnp.matmul(a, b.swapaxes(-1, -2), precision=jax.lax.Precision.HIGHEST)


def at_least_float32(x: jax.Array) -> jax.Array:
    """float16 and bfloat16 widened."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

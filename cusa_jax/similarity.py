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
    """Embeddings [B, E] -> cosine similarities [groups, B/groups, B/groups] (no group axis for groups=1).

    No epsilon in the norm (reference unire/model.py:168-171): an all-zero embedding is a broken model, and its
    NaN reaches the loss, where training stops and names it.
    """
    u, v, p, q = (
        _group(x / jnp.linalg.norm(x, axis=-1, keepdims=True), groups)
        for x in map(
            _at_least_float32,
            (embeddings.cross_image, embeddings.cross_text, embeddings.uni_image, embeddings.uni_text),
        )
    )
    return Similarities(image_text=_inner(u, v), image_image=_inner(p, p), text_text=_inner(q, q))


def teacher(image_features: jax.Array, text_features: jax.Array, groups: int = 1) -> SoftLabels:
    """Teacher features [B, D] -> cosine similarities, frozen; self-similarity stays on the diagonal.

    Norms have a floor of 1e-12 (sentence-transformers' `util.cos_sim`, reference unire/model.py:364-369).
    """

    def gram(features: jax.Array) -> jax.Array:
        features = _at_least_float32(jax.lax.stop_gradient(features))
        norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
        features = _group(features / jnp.maximum(norm, 1e-12), groups)
        return _inner(features, features)

    return SoftLabels(image=gram(image_features), text=gram(text_features))


def group_ids(ids: jax.Array, groups: int = 1) -> jax.Array:
    """Image numbers int [B] -> [groups, B/groups], cut the way the similarities are."""
    return _group(ids, groups)


def _group(x: jax.Array, groups: int) -> jax.Array:
    return x if groups == 1 else x.reshape(groups, -1, *x.shape[1:])


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """a bᵀ over the last two axes, in full precision on every backend (GPUs would use TF32)."""
    return jnp.matmul(a, b.swapaxes(-1, -2), precision=jax.lax.Precision.HIGHEST)


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

"""How V images and the captions of a tile agree: similarity vectors of words and of the whole, and what they give.

Equations 1-8 of Diao et al. (AAAI 2021). Shapes: V images of R regions; a tile of W words that belong to K captions;
E embedding width, S similarity width; N = K + W nodes, first one for the whole of each caption, then its words.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from cusa_jax.models.affine import Affine
from cusa_jax.models.norms import EPSILON, l2norm, safe_sqrt

SMOOTH = 9.0  # of the softmax over regions
SAVED = "saved"  # what the backward pass needs and is dear to compute again: results of products with weights


@struct.dataclass
class Captions:
    """K captions of a tile. words [W, E], zero where there is none; owners int32 [W], slot of each word's caption, K
    where there is none; whole [K, E], the global representations."""

    words: jax.Array
    owners: jax.Array
    whole: jax.Array

    @property
    def nodes(self) -> jax.Array:
        """int32 [N], the slot that each node belongs to."""
        return jnp.concatenate([jnp.arange(len(self.whole)), self.owners])


@struct.dataclass
class GraphStep:
    """Weights of one step of graph reasoning, S to S each."""

    query: Affine
    key: Affine
    out: Affine


@struct.dataclass
class Filtration:
    """Weights of attention filtration: S to 1, and the batch norm behind it: scale and bias [1]."""

    weight: Affine
    scale: jax.Array
    bias: jax.Array


@struct.dataclass
class Moments:
    """Mean and biased variance of each caption's values [K], or of all captions [1]."""

    mean: jax.Array
    var: jax.Array


def align(
    regions: jax.Array, whole: jax.Array, captions: Captions, local_weights: Affine, whole_weights: Affine
) -> jax.Array:
    """Similarity vectors [V, N, S] of length 1: W (a - b)² of each word and what it attends to, and of the wholes.

    regions [V, R, E], whole [V, E].
    """
    dtype = local_weights.kernel.dtype
    attended = attend(regions.astype(dtype), captions.words.astype(dtype), captions.owners)
    local = local_weights(jnp.square(attended - captions.words))
    glob = whole_weights(jnp.square(whole[:, None] - captions.whole))
    return l2norm(checkpoint_name(jnp.concatenate([glob, local], axis=1), SAVED))


def attend(regions: jax.Array, words: jax.Array, owners: jax.Array) -> jax.Array:
    """What each word attends to, [V, W, E] of length 1: regions [V, R, E] weighted by their agreement with the word.

    Agreement is measured against that of the region with the caption's other words, which a tile's other captions
    must not enter.
    """
    wide = jnp.promote_types(regions.dtype, jnp.float32)
    logits = jnp.einsum("vre,we->vwr", regions, words, preferred_element_type=wide)
    logits = checkpoint_name(logits, SAVED)
    logits = jax.nn.leaky_relu(logits, 0.1)
    same = (owners[:, None] == owners).astype(logits.dtype)
    length = safe_sqrt(jnp.einsum("vwr,wu->vur", jnp.square(logits), same))
    weights = jax.nn.softmax(SMOOTH * logits / (length + EPSILON), axis=-1)
    weights = weights.astype(regions.dtype)
    return l2norm(jnp.einsum("vwr,vre->vwe", weights, regions, preferred_element_type=wide))


def reason(
    steps: tuple[GraphStep, ...], nodes: jax.Array, owners: jax.Array, captions: int
) -> tuple[jax.Array, None]:
    """SGR: nodes [V, N, S] exchange what they know within their caption; the wholes' after the last step, [V, K, S].

    What the last step would make of the words is not computed. A query's product with the key's bias is the same for
    all keys, which the softmax does not see; so (x Q + q) · (y K + k) needs one product, with Q Kᵀ.
    """
    same = owners[:, None] == owners
    for number, step in enumerate(steps, start=1):
        last = number == len(steps)
        # Only the first K nodes ask.
        asking, seen = (nodes[:, :captions], same[:captions]) if last else (nodes, same)
        product = Affine(step.query.kernel @ step.key.kernel.T, step.key.kernel @ step.query.bias)
        queries = checkpoint_name(product(asking), SAVED)
        logits = jnp.einsum("vns,vms->vnm", queries, nodes)
        edges = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf), axis=-1)
        read = checkpoint_name(jnp.einsum("vnm,vms->vns", edges, nodes), SAVED)
        nodes = jax.nn.relu(checkpoint_name(step.out(read), SAVED))
    return nodes, None


def filtrate(
    weights: Filtration, running: Moments | None, nodes: jax.Array, owners: jax.Array, captions: int
) -> tuple[jax.Array, Moments | None]:
    """SAF: the mean of a caption's nodes [V, N, S], each weighted by a gate, as [V, K, S] of length 1.

    The gate's batch norm sees one caption at a time, V x (its words + 1) values, whose moments are returned.
    running: the moments to go by instead, in evaluation.
    """
    member = (owners[:, None] == jnp.arange(captions)).astype(nodes.dtype)  # [N, K]
    logits = weights.weight(nodes)[..., 0]
    moments = _moments(logits, member) if running is None else running
    # Places of no caption go by mean 0 and variance 0, and are no members below.
    mean, var = (member @ jnp.broadcast_to(moment, captions) for moment in (moments.mean, moments.var))
    normed = (logits - mean) * jax.lax.rsqrt(var + 1e-5)
    gate = jax.nn.sigmoid(normed * weights.scale + weights.bias)[..., None] * member  # [V, N, K]
    gate = gate / (gate.sum(axis=1, keepdims=True) + EPSILON)
    return l2norm(jnp.einsum("vnk,vns->vks", gate, nodes)), moments if running is None else None


def _moments(values: jax.Array, member: jax.Array) -> Moments:
    count = len(values) * member.sum(axis=0)
    mean = (values @ member).sum(axis=0) / count
    deviation = values - member @ mean
    return Moments(mean, (jnp.square(deviation) @ member).sum(axis=0) / count)

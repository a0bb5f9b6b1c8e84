"""The two sides that SGR, SAF and VSE++ share: regions through one layer, words through a GRU, and what they sum to.

Written from Diao et al., "Similarity Reasoning and Filtration for Image-Text Matching" (AAAI 2021), section 3.1, and
equal to the authors' code in numbers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.errors import InputError
from cusa_jax.models.gru import GRU
from cusa_jax.models.norms import l2norm
from cusa_jax.models.resnet import BatchNorm
from cusa_jax.models.sgraf_sizes import Sides
from cusa_jax.similarity import at_least_float32

_XAVIER = nn.initializers.xavier_uniform()


class Regions(nn.Module):
    """Features of regions [B, R, D] -> [B, R, E], of length 1 unless the sizes say otherwise."""

    sizes: Sides
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, regions: jax.Array) -> jax.Array:
        check_regions(regions, (self.sizes.regions, self.sizes.img_dim))
        dense = nn.Dense(self.sizes.embed_size, kernel_init=_XAVIER, dtype=self.dtype, name="fc")
        embedded = at_least_float32(dense(regions.astype(self.dtype)))
        return embedded if self.sizes.no_imgnorm else l2norm(embedded)


class Words(nn.Module):
    """Word ids int32 [B, L] -> the mean of both directions' outputs [B, L, E], of last states [B, E].

    Each is of length 1 unless the sizes say otherwise, and zero behind a caption's end.
    """

    sizes: Sides
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        sizes = self.sizes
        init = nn.initializers.uniform(0.2)
        embedding = self.param(
            # torch's uniform_(-0.1, 0.1); jax's starts at zero.
            "embedding",
            lambda key, shape: init(key, shape) - 0.1,
            (sizes.vocab_size, sizes.word_dim),
        )
        words = nn.Dropout(sizes.dropout, deterministic=not train)(embedding[tokens].astype(self.dtype))
        gru = GRU(sizes.embed_size, sizes.num_layers, sizes.bi_gru, self.dtype, name="gru")
        outputs, last = (at_least_float32(x).mean(axis=0) for x in gru(words, is_word(tokens)))
        return (outputs, last) if sizes.no_txtnorm else (l2norm(outputs), l2norm(last))


class SelfAttention(nn.Module):
    """Members [B, N, E] -> [B, E], of length 1: their mean, weighted by how they agree with the plain mean.

    weight of m = softmax(w · tanh(W m) * tanh(U mean)). mask: bool [B, N], which members there are; None is all.
    batch_norm: before both tanh, as for images: W's has a channel for each member, with statistics over rows and
    embedding, and U's one for each dimension.
    """

    dropout: float
    batch_norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, members: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
        there = jnp.ones(members.shape[:2], bool) if mask is None else mask
        mean = members.sum(axis=1) / jnp.maximum(there.sum(axis=1, keepdims=True), 1)
        local, whole = self._dense(members, "local"), self._dense(mean, "mean")
        if self.batch_norm:
            norm = BatchNorm(train, self.dtype, name="local_norm")
            local = norm(local.swapaxes(1, 2)).swapaxes(1, 2)
            whole = BatchNorm(train, self.dtype, name="mean_norm")(whole)
        local, whole = (
            nn.Dropout(self.dropout, deterministic=not train)(jnp.tanh(x)) for x in (local, whole)
        )
        logits = nn.Dense(1, kernel_init=_XAVIER, dtype=self.dtype, name="weight")(local * whole[:, None])
        logits = jnp.where(there, at_least_float32(logits[..., 0]), -jnp.inf)
        return l2norm((jax.nn.softmax(logits, axis=1)[..., None] * members).sum(axis=1))

    def _dense(self, x: jax.Array, name: str) -> jax.Array:
        width = x.shape[-1]
        return nn.Dense(width, kernel_init=_XAVIER, dtype=self.dtype, name=name)(x.astype(self.dtype))


def check_regions(regions: jax.Array, shape: tuple[int, int]) -> None:
    """Raises InputError unless regions are [B, *shape]."""
    if regions.shape[1:] != shape:
        raise InputError(
            f"{' x '.join(map(str, regions.shape[1:]))} features an image, but the model takes {shape[0]} regions "
            f"of {shape[1]}"
        )


def is_word(tokens: jax.Array) -> jax.Array:
    """bool, which ids are no padding; a row of nothing but padding counts as one word, for its means to exist."""
    return (tokens != 0) | (jnp.arange(tokens.shape[-1]) == 0)

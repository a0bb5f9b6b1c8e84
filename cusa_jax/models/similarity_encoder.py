"""Scores of images and captions: the parameters of SGR or SAF, and `alignment` tile by tile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from cusa_jax.models import alignment, packing
from cusa_jax.models.affine import AffineParameters
from cusa_jax.models.alignment import Captions, Filtration, GraphStep, Moments
from cusa_jax.models.sgraf_sizes import SgrafSizes

# How many words of captions are compared with all images at once, and to how many captions they belong, at most:
# captions of data sets have more than eight words. Caches of a CPU hold no more; a GPU is faster with the large one.
TILES = {"cpu": (64, 8)}
LARGE_TILE = (256, 32)
MOMENTUM = 0.1  # of SAF's batch norm


@struct.dataclass
class Encoding:
    """One side of a batch, encoded: members [B, N, E], regions or words (zeros behind the last); whole [B, E], their
    global representation; uni [B, U], for the uni-modal similarities; lengths int32 [B], how many members there are.
    """

    members: jax.Array
    whole: jax.Array
    uni: jax.Array
    lengths: jax.Array


class SimilarityEncoder(nn.Module):
    """Parameter tree: {'local', 'whole', 'score'}, and {'step_0': {'query', 'key', 'out'}, …} of SGR or, of SAF,
    {'filtration': {'weight', 'norm'}}.

    remat: whether the backward pass computes all of a tile again.
    """

    sizes: SgrafSizes
    remat: bool
    dtype: jnp.dtype

    def setup(self) -> None:
        sizes, width = self.sizes, self.sizes.sim_dim
        self.local = AffineParameters(sizes.embed_size, width, self.dtype)
        self.whole = AffineParameters(sizes.embed_size, width, self.dtype)
        self.score = AffineParameters(width, 1, self.dtype)
        if sizes.module_name == "SAF":
            self.filtration = FiltrationParameters(width, self.dtype)
        else:
            self.steps = [
                GraphStepParameters(width, self.dtype, name=f"step_{n}") for n in range(sizes.sgr_step)
            ]

    def __call__(self, images: Encoding, texts: Encoding, train: bool) -> jax.Array:
        """Scores in (0, 1) [G, V, C] of V images and C captions of each of G groups; sides are [G, B, …].

        train: SAF's batch norm goes by each caption's own moments, and its running ones move once for each, in order.
        """
        local, whole, score = self.local(), self.whole(), self.score()
        reduce = self.reduction(train)

        def tile(regions: jax.Array, glob: jax.Array, captions: Captions) -> tuple[jax.Array, Moments | None]:
            nodes = alignment.align(regions, glob, captions, local, whole)
            vectors, moments = reduce(nodes, captions.nodes, len(captions.whole))
            return jax.nn.sigmoid(score(vectors)[..., 0]), moments

        names = () if self.remat else (alignment.SAVED,)
        policy = jax.checkpoint_policies.save_only_these_names(*names)
        # Tiles are compared in a loop, where nothing can merge the second computation with the first.
        tile = jax.checkpoint(tile, prevent_cse=False, policy=policy)
        scores, moments = over_tiles(tile, images, texts)
        if moments is not None:
            self.filtration.norm.move(moments, images.members.shape[1] * (texts.lengths + 1))
        return scores

    def reduction(self, train: bool) -> Callable[..., tuple[jax.Array, Moments | None]]:
        """(nodes, their owners, number of captions) -> (one vector a caption, its moments in training of SAF)."""
        if self.sizes.module_name == "SGR":
            return functools.partial(alignment.reason, tuple(step() for step in self.steps))
        norm = self.filtration.norm
        running = None if train else Moments(norm.mean.value, norm.var.value)
        return functools.partial(alignment.filtrate, self.filtration(), running)


class GraphStepParameters(nn.Module):
    """Returns the weights of one step of graph reasoning."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self) -> GraphStep:
        query, key, out = (
            AffineParameters(self.width, self.width, self.dtype, name=name)()
            for name in ("query", "key", "out")
        )
        return GraphStep(query, key, out)


class FiltrationParameters(nn.Module):
    """Returns the weights of attention filtration."""

    width: int
    dtype: jnp.dtype

    def setup(self) -> None:
        self.weight = AffineParameters(self.width, 1, self.dtype)
        self.norm = CaptionNorm()

    def __call__(self) -> Filtration:
        return Filtration(self.weight(), self.norm.scale, self.norm.bias)


class CaptionNorm(nn.Module):
    """torch.nn.BatchNorm1d(1) that sees one caption after another: its parameters and running moments, [1] each."""

    def setup(self) -> None:
        self.scale = self.param("scale", nn.initializers.ones, (1,))
        self.bias = self.param("bias", nn.initializers.zeros, (1,))
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, (1,))
        self.var = self.variable("batch_stats", "var", jnp.ones, (1,))

    def move(self, moments: Moments, counts: jax.Array) -> None:
        """Moves a tenth of the way to each caption's mean and unbiased variance, in order.

        moments, counts: [G, C], of so many values each.
        """
        self.mean.value = _moved(self.mean.value, moments.mean)
        self.var.value = _moved(self.var.value, moments.var * counts / (counts - 1))


def over_tiles(
    tile: Callable[..., tuple[jax.Array, Moments | None]], images: Encoding, texts: Encoding
) -> tuple[jax.Array, Moments | None]:
    """Scores [G, V, C], and moments [G, C] of each caption if there are any.

    tile: (regions [V, R, E], wholes [V, E], captions of a tile) -> (scores [V, K], moments [K]).
    """
    count, longest, width = texts.members.shape[1:]
    words, slots = TILES.get(jax.default_backend(), LARGE_TILE)
    pack = functools.partial(packing.pack, longest=longest, words=max(words, longest), slots=slots)
    tiles = jax.vmap(pack)(texts.lengths)
    take = jax.vmap(packing.take)
    captions = Captions(
        take(texts.members.reshape(-1, count * longest, width), tiles.words),
        tiles.owners,
        take(texts.whole, tiles.captions),
    )
    captions, live = jax.tree.map(lambda x: x.swapaxes(0, 1), (captions, tiles.captions < count))
    compute = functools.partial(jax.vmap(tile), images.members, images.whole)
    nothing = jax.eval_shape(compute, jax.tree.map(lambda x: x[0], captions))

    def body(_: None, at: tuple[Captions, jax.Array]) -> tuple[None, Any]:
        captions, live = at
        return None, jax.lax.cond(live.any(), compute, lambda _: _zeros(nothing), captions)

    scores, moments = jax.lax.scan(body, None, (captions, live))[1]
    # [T, G, V, K] and [T, G, K] -> by caption, [G, C, …].
    scores, moments = jax.tree.map(
        lambda x: jax.vmap(lambda x, tile, slot: x[tile, ..., slot])(
            x.swapaxes(0, 1), tiles.tile, tiles.slot
        ),
        (scores, moments),
    )
    return scores.swapaxes(1, 2), moments


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _moved(running: jax.Array, values: jax.Array) -> jax.Array:
    """What is left of `running` [1] after a tenth of the way to each of the values, in order."""
    kept = (1 - MOMENTUM) ** jnp.arange(values.size, 0, -1, dtype=running.dtype)
    return kept[0] * running + (values.reshape(-1) * kept).sum() * MOMENTUM / (1 - MOMENTUM)

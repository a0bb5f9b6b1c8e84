"""SGR and SAF (Diao et al., "Similarity Reasoning and Filtration for Image-Text Matching", AAAI 2021) as students.

A caption is compared with an image word by word, and as a whole; graph reasoning (SGR) or attention filtration (SAF)
makes one vector of these similarities, and one layer a score. Both see an image and a caption together: there are no
embeddings to search by. The paper's SGRAF is the mean of both models' scores.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax import similarity
from cusa_jax.errors import InputError
from cusa_jax.models.linen_student import LinenStudent
from cusa_jax.models.region_word import Regions, SelfAttention, Words, is_word
from cusa_jax.models.sgraf_sizes import SGRAF_PRESETS, SgrafSizes, inputs
from cusa_jax.models.similarity_encoder import Encoding, SimilarityEncoder
from cusa_jax.models.student import Encoded, Family, ModelState, Options, Rngs, Side, Variables
from cusa_jax.types import Array, Similarities

SCORED_IMAGES = 128  # images that are in memory at once, in evaluation


class Sgraf(nn.Module):
    """Parameter tree: {'image': {'regions', 'attention'}, 'text': {'words', 'attention'}, 'similarity',
    'uni_image', 'uni_text'}. Without uni-modal heads, the global representations stand for them.
    """

    sizes: SgrafSizes
    uni_heads: bool
    remat: bool
    dtype: jnp.dtype

    def setup(self) -> None:
        self.image = ImageSide(self.sizes, self.dtype)
        self.text = TextSide(self.sizes, self.dtype)
        self.similarity = SimilarityEncoder(self.sizes, self.remat, self.dtype)
        if self.uni_heads:
            init = nn.initializers.xavier_uniform()
            self.uni_image = nn.Dense(self.sizes.uni_dim, kernel_init=init, dtype=self.dtype)
            self.uni_text = nn.Dense(self.sizes.uni_dim, kernel_init=init, dtype=self.dtype)

    def encode(self, side: Side, rows: Array, train: bool = False) -> Encoding:
        members, whole, lengths = getattr(self, side)(rows, train)
        uni = getattr(self, f"uni_{side}")(whole) if self.uni_heads else whole
        return Encoding(members, whole, similarity.at_least_float32(uni), lengths)

    def score(self, images: Encoding, texts: Encoding, train: bool = False) -> jax.Array:
        """Scores in (0, 1), [M, N]."""
        image_group, text_group = jax.tree.map(lambda x: x[None], (images, texts))
        return self.score_groups(image_group, text_group, train)[0]

    def score_groups(self, images: Encoding, texts: Encoding, train: bool) -> jax.Array:
        """[G, M, N] of G groups of images and texts, [G, M, …] and [G, N, …]."""
        return self.similarity(images, texts, train)


class ImageSide(nn.Module):
    """Regions [B, R, D] -> (embedded [B, R, E], their global representation [B, E], their numbers int32 [B])."""

    sizes: SgrafSizes
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, regions: Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        members = Regions(self.sizes, self.dtype, name="regions")(regions)
        attention = SelfAttention(self.sizes.dropout, batch_norm=True, dtype=self.dtype, name="attention")
        lengths = jnp.full(len(members), members.shape[1], jnp.int32)
        return members, attention(members, None, train), lengths


class TextSide(nn.Module):
    """Ids int32 [B, L] -> (words [B, L, E], their global representation [B, E], their numbers int32 [B])."""

    sizes: SgrafSizes
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        members, _ = Words(self.sizes, self.dtype, name="words")(tokens, train)
        attention = SelfAttention(self.sizes.dropout, batch_norm=False, dtype=self.dtype, name="attention")
        mask = is_word(tokens)
        return members, attention(members, mask, train), mask.sum(axis=1, dtype=jnp.int32)


@dataclasses.dataclass(frozen=True)
class SgrafStudent(LinenStudent):
    """A LinenStudent whose module is an Sgraf."""

    def compare(
        self,
        variables: Variables,
        encoded: Encoded,
        *,
        groups: int = 1,
        train: bool = False,
        rngs: Rngs = None,
    ) -> tuple[Similarities, ModelState]:
        """All three similarities: scores, and cosines of what the uni-modal heads make of each side."""
        image, text = jax.tree.map(
            lambda x: x.reshape(groups, -1, *x.shape[1:]), (encoded["image"], encoded["text"])
        )
        mutable = [name for name in variables if name != "params"] if train else []
        scores, changed = self.module.apply(
            variables, image, text, train, method="score_groups", mutable=mutable
        )
        cosines = (similarity.cosines(side.uni, side.uni) for side in (image, text))
        similarities = Similarities(cast(jax.Array, scores), *cosines)
        return similarities if groups > 1 else jax.tree.map(lambda x: x[0], similarities), changed

    def uni(self, encoded: Encoding) -> Array:
        """The global representation of a side, through the uni-modal head where there is one."""
        return encoded.uni

    def score(self, variables: Variables, images: Any, texts: Any) -> jax.Array:
        def one(image: Encoding) -> jax.Array:
            alone = jax.tree.map(lambda x: x[None], image)
            return cast(jax.Array, self.module.apply(variables, alone, texts, method="score"))[0]

        return jax.lax.map(one, images, batch_size=SCORED_IMAGES)


def student(sizes: SgrafSizes, options: Options) -> SgrafStudent:
    """SGR or SAF; 'uni' of `options.heads` adds one layer a side for the uni-modal similarities.

    Raises InputError for residual heads: these layers turn several vectors into one, which has no identity.
    """
    if options.head_kind == "residual":
        raise InputError("config.model.heads='residual': SGRAF has features of another kind; set 'linear'")
    module = Sgraf(sizes, "uni" in options.heads, options.remat, jnp.dtype(options.dtype))
    # The batch norms over regions look at all rows of a batch.
    return SgrafStudent("sgraf", sizes, inputs(sizes, options.tokenizer), module, rows_independent=False)


FAMILY = Family(SgrafSizes, SGRAF_PRESETS, student)

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
from flax import struct

from cusa_jax import similarity
from cusa_jax.inputs import Inputs
from cusa_jax.models.region_word import Regions, SelfAttention, Words, is_word
from cusa_jax.models.sgraf_sizes import SgrafSizes
from cusa_jax.models.sgraf_sizes import VOCABULARY as _VOCABULARY
from cusa_jax.models.similarity_encoder import Side as EncodedSide
from cusa_jax.models.similarity_encoder import SimilarityEncoder
from cusa_jax.models.student import Family, ModelState, Options, Rngs, Side, Variables
from cusa_jax.types import Array, Similarities

SCORED_IMAGES = 128  # images that are in memory at once, in evaluation


@struct.dataclass
class Encoded:
    """Both sides of a batch."""

    image: EncodedSide
    text: EncodedSide


class Sgraf(nn.Module):
    """Parameter tree: {'image': {'regions', 'attention'}, 'text': {'words', 'attention'}, 'similarity',
    'uni_image', 'uni_text'}.
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
            self.uni_image, self.uni_text = (
                nn.Dense(self.sizes.uni_dim, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype)
                for _ in range(2)
            )

    def __call__(self, image: Array, tokens: Array) -> jax.Array:
        encoded = self.encode(image, tokens, ())
        return self.compare(encoded, groups=1, train=False).image_text

    def encode(self, image: Array, tokens: Array, train: tuple[Side, ...]) -> Encoded:
        return Encoded(*(self.side(side, rows, side in train) for side, rows in (("image", image), ("text", tokens))))

    def side(self, side: Side, rows: Array, train: bool = False) -> EncodedSide:
        members, whole, lengths = getattr(self, side)(rows, train)
        uni = getattr(self, f"uni_{side}")(whole) if self.uni_heads else whole
        return EncodedSide(members, whole, uni, lengths)

    def compare(self, encoded: Encoded, groups: int, train: bool) -> Similarities:
        image, text = (
            jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), side)
            for side in (encoded.image, encoded.text)
        )
        similarities = Similarities(
            image_text=self.similarity(image, text, train),
            image_image=jax.vmap(similarity.cosines)(image.uni, image.uni),
            text_text=jax.vmap(similarity.cosines)(text.uni, text.uni),
        )
        return similarities if groups > 1 else jax.tree.map(lambda x: x[0], similarities)

    def score(self, images: EncodedSide, texts: EncodedSide) -> jax.Array:
        images, texts = jax.tree.map(lambda x: x[None], (images, texts))
        return self.similarity(images, texts, train=False)[0]


class ImageSide(nn.Module):
    """Regions [B, R, D] -> (embedded [B, R, E], global [B, E], counts [B])."""

    sizes: SgrafSizes
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, regions: Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        members = Regions(self.sizes, self.dtype, name="regions")(regions)
        attention = SelfAttention(self.sizes.dropout, batch_norm=True, dtype=self.dtype, name="attention")
        lengths = jnp.full(len(members), members.shape[1], jnp.int32)
        return members, attention(members, None, train), lengths


class TextSide(nn.Module):
    """Ids int32 [B, L] -> (words [B, L, E], global [B, E], their numbers [B])."""

    sizes: SgrafSizes
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        members, _ = Words(self.sizes, self.dtype, name="words")(tokens, train)
        attention = SelfAttention(self.sizes.dropout, batch_norm=False, dtype=self.dtype, name="attention")
        mask = is_word(tokens)
        return members, attention(members, mask, train), mask.sum(axis=1, dtype=jnp.int32)


@dataclasses.dataclass(frozen=True)
class SgrafStudent:
    """`models.student.Student` of SGR or SAF. Batch norms over regions look at all rows of a batch."""

    sizes: SgrafSizes
    module: Sgraf
    family: str = "sgraf"
    rows_independent: bool = False

    @property
    def inputs(self) -> Inputs:
        return self.sizes.inputs

    def init(self, key: jax.Array) -> Variables:
        """Fresh float32 variables."""
        regions = jnp.zeros((1, self.sizes.regions, self.sizes.img_dim))
        return self.module.init(key, regions, jnp.ones((1, 2), jnp.int32))

    def encode(
        self,
        variables: Variables,
        image: Array,
        tokens: Array,
        *,
        train: tuple[Side, ...] = (),
        rngs: Rngs = None,
    ) -> tuple[Encoded, ModelState]:
        mutable = ["batch_stats"] if train else []
        return cast(
            tuple,
            self.module.apply(variables, image, tokens, train, method="encode", mutable=mutable, rngs=rngs),
        )

    def encode_side(self, variables: Variables, side: Side, rows: Array) -> EncodedSide:
        return cast(EncodedSide, self.module.apply(variables, side, rows, method="side"))

    def compare(
        self,
        variables: Variables,
        encoded: Encoded,
        *,
        groups: int = 1,
        train: bool = False,
        rngs: Rngs = None,
    ) -> tuple[Similarities, ModelState]:
        mutable = ["batch_stats"] if train else []
        return cast(
            tuple, self.module.apply(variables, encoded, groups, train, method="compare", mutable=mutable)
        )

    def score(self, variables: Variables, images: Any, texts: Any) -> jax.Array:
        def one(image: EncodedSide) -> jax.Array:
            return self.module.apply(variables, jax.tree.map(lambda x: x[None], image), texts, method="score")[0]

        return jax.lax.map(one, images, batch_size=SCORED_IMAGES)


def student(sizes: SgrafSizes, options: Options) -> SgrafStudent:
    """SGR or SAF; 'uni' of `options.heads` adds one layer a side for the uni-modal similarities."""
    module = Sgraf(sizes, "uni" in options.heads, options.remat, jnp.dtype(options.dtype))
    return SgrafStudent(sizes, module)


FAMILY = Family(
    SgrafSizes,
    {
        f"{name.lower()}{suffix}": SgrafSizes(module_name=name, vocab_size=words)
        for name in ("SGR", "SAF")
        for suffix, words in (("", _VOCABULARY["f30k"]), ("_coco", _VOCABULARY["coco"]))
    },
    student,
)

"""VSE++ (Faghri et al., BMVC 2018) over regions: the mean of an image's regions, and the last state of a GRU.

A dual encoder: both are embedded and compared by cosine, so that search and uni-modal suites work on it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from cusa_jax.models.dual_encoder import DualEncoder, DualEncoderStudent
from cusa_jax.models.norms import l2norm
from cusa_jax.models.region_word import Words, check_regions
from cusa_jax.models.sgraf_sizes import VSE_PRESETS, VseSizes, inputs
from cusa_jax.models.student import Family, Options
from cusa_jax.similarity import at_least_float32


class MeanRegion(nn.Module):
    """Features of regions [B, R, D] -> their mean through one layer, [B, width]. shape: (R, D)."""

    shape: tuple[int, int]
    width: int
    dtype: jnp.dtype
    unit: bool = True

    @nn.compact
    def __call__(self, regions: jax.Array, train: bool = False) -> jax.Array:
        check_regions(regions, self.shape)
        init = nn.initializers.xavier_uniform()
        mean = regions.mean(axis=1).astype(self.dtype)
        embedded = nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name="fc")(mean)
        embedded = at_least_float32(embedded)
        return l2norm(embedded) if self.unit else embedded


class LastState(nn.Module):
    """Word ids int32 [B, L] -> the last state of a GRU over them, [B, E]."""

    sizes: VseSizes
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
        return Words(self.sizes, self.dtype, name="words")(tokens, train)[1]


def student(sizes: VseSizes, options: Options) -> DualEncoderStudent:
    """VSE++ with the heads of `options`; it has none of its own."""
    dtype = jnp.dtype(options.dtype)
    image = MeanRegion((sizes.regions, sizes.img_dim), sizes.embed_size, dtype, unit=not sizes.no_imgnorm)
    module = DualEncoder(image, LastState(sizes, dtype), options.heads, options.head_kind)
    return DualEncoderStudent("vse", sizes, inputs(sizes, options.tokenizer), module)


FAMILY = Family(VseSizes, VSE_PRESETS, student)

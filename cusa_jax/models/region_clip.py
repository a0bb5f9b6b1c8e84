"""CLIP's text tower over stored features: the mean of an image's regions through one layer, as in VSE++ (`vse`)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from cusa_jax.inputs import Inputs, Regions, Text
from cusa_jax.models.clip import TextTransformer, check_tokenizer
from cusa_jax.models.clip_sizes import TextSizes
from cusa_jax.models.dual_encoder import DualEncoder, DualEncoderStudent
from cusa_jax.models.student import Family, Options
from cusa_jax.models.vse import MeanRegion


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionClipSizes(TextSizes):
    """regions, img_dim: of an image's features."""

    regions: int = 36
    img_dim: int = 2048


def student(sizes: RegionClipSizes, options: Options) -> DualEncoderStudent:
    """Raises InputError for a tokenizer that is not CLIP's."""
    check_tokenizer(options)
    dtype = jnp.dtype(options.dtype)
    image = MeanRegion((sizes.regions, sizes.img_dim), sizes.embed_dim, dtype)
    text = TextTransformer(sizes, options.remat, dtype, options.attention)
    inputs = Inputs(Regions(sizes.regions, sizes.img_dim), Text(sizes.context_length, sizes.vocab_size))
    module = DualEncoder(image, text, options.heads, options.head_kind)
    return DualEncoderStudent("region_clip", sizes, inputs, module)


PRESETS = {"region_clip": RegionClipSizes(embed_dim=512, text_width=512, text_layers=12)}
FAMILY = Family(RegionClipSizes, PRESETS, student)

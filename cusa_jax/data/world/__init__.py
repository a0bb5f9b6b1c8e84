"""The embedded world: rendered scenes with captions, whose image-caption relevance is exact and many-to-many.

A caption is a partial description of the scene it was written for, and relevant to every image whose scene
it is true of. So, as in COCO, most relevant pairs are not annotated; unlike in COCO, all of them are known.
"""

from cusa_jax.data.world.captions import Forms
from cusa_jax.data.world.files import DEFAULT_SIZES, write
from cusa_jax.data.world.scenes import Scenes
from cusa_jax.data.world.splits import SPECIFICITY, Split, World, generate
from cusa_jax.data.world.truth import fact_overlap, relevance

__all__ = [
    "DEFAULT_SIZES",
    "SPECIFICITY",
    "Forms",
    "Scenes",
    "Split",
    "World",
    "fact_overlap",
    "generate",
    "relevance",
    "write",
]

"""CUSA (AAAI 2024) in JAX: soft-label alignment for image-text retrieval.

data -> encoders -> heads -> similarities -> losses <- soft labels <- teachers; see docs/tree.md.
"Reference", wherever a docstring names one of its files, is the authors' PyTorch code,
https://github.com/lerogo/aaai24_itr_cusa at commit 58e8721.
"""

from typing import Any

__version__ = "0.2.0"


def load(source: Any, **options: Any) -> Any:
    """A model for programs of one's own, with `encode_image` and `encode_text`: see `cusa_jax.pretrained.load`."""
    # Nothing of JAX is imported before it is needed.
    from cusa_jax import pretrained

    return pretrained.load(source, **options)

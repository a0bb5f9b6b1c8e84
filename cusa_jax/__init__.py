"""CUSA (AAAI 2024) in JAX: soft-label alignment for image-text retrieval.

data -> encoders -> heads -> similarities -> losses <- soft labels <- teachers; see README.md for the tree.
"Reference", wherever a docstring names one of its files, is the authors' PyTorch code,
https://github.com/lerogo/aaai24_itr_cusa at commit 58e8721.
"""

__version__ = "0.2.0"

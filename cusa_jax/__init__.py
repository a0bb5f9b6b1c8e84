"""CUSA (AAAI 2024) in JAX: soft-label alignment for image-text retrieval.

data -> encoders -> heads -> similarities -> losses <- soft labels <- teachers; see README.md for the tree.
"""

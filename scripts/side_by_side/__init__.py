"""The PyTorch reference and this package on the same weights and inputs.

What scripts/parity.py compares, and scripts/bench.py --against times.
"""

"""The PyTorch reference and this package on the same weights and inputs; what scripts/parity.py compares."""

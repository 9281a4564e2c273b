"""The network, its sparsity, and its training."""

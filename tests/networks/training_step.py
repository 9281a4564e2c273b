"""A stand-in for a step of training, for tests of what is done after it."""

import torch

from sparsemark.networks.gsc_cnn import GscCnn
from sparsemark.networks.sparsity_patterns import LAYERS


def disturb(model: GscCnn) -> None:
    """Do what a training step does to weights, as far as masks are concerned: all of them move."""
    with torch.no_grad():
        for name in LAYERS:
            weight = getattr(model, name).weight
            weight += 1e-4 * torch.randn_like(weight)

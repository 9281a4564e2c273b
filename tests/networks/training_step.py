"""A stand-in for a step of training, for tests of what is done after it."""

import torch
from torch import nn

from sparsemark.networks.layers import layers_of


def disturb(model: nn.Module) -> None:
    """Do what a training step does to weights, as far as masks are concerned: all of them move."""
    with torch.no_grad():
        for name in layers_of(model):
            weight = model.get_submodule(name).weight
            weight += 1e-4 * torch.randn_like(weight)

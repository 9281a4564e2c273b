"""Layers that make activations sparse: k-winners and column gates."""

import torch
from torch import nn
from torch.nn import functional

BOOST_STRENGTH = 1.5
BOOST_DECAY = 0.9
BOOST_EPOCHS = 30
DUTY_CYCLE_PERIOD = 1000


class KWinners(nn.Module):
    """Keep the `k` largest values of each sample, over all its units, and zero the rest; negatives become zero.

    In training, units (channels, for a convolution) that win less than their share are boosted in the choice of
    winners, so that all learn to be used (Ahmad and Scheinkman, 2019). The values themselves are never boosted.
    Equal values at the threshold all win.

    Args:
        shape: of one sample's activation, [channels, height, width] or [units].
        density: share of the units that win, between 0 and 1.
    """

    def __init__(self, shape: tuple[int, ...], density: float) -> None:
        super().__init__()
        self.units = torch.Size(shape).numel()
        self.k = max(1, round(density * self.units))
        self.density = self.k / self.units
        self.strength = BOOST_STRENGTH
        self.register_buffer("duty_cycle", torch.zeros(shape[0], *[1] * (len(shape) - 1)))
        self.register_buffer("samples_seen", torch.zeros((), dtype=torch.long))

    def set_progress(self, progress: float) -> None:
        """Let boosting fade: by the factor 0.9 per epoch of the published 30, stretched over this training (0 to 1)."""
        self.strength = BOOST_STRENGTH * BOOST_DECAY ** (BOOST_EPOCHS * progress)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, [batch, *shape], with all but the winners set to zero."""
        x = functional.relu(x)
        rank = x.detach()
        if self.training:
            rank = rank * torch.exp((self.density - self.duty_cycle) * self.strength)
        # TopK, a comparison and a product: standard ONNX operators, without a scatter.
        threshold = torch.topk(rank.flatten(1), self.k, dim=1).values[:, -1:]
        winners = rank >= threshold.reshape(-1, *[1] * (x.dim() - 1))
        if self.training:
            self._count(winners & (rank > 0))
        return x * winners.to(x.dtype)

    def _count(self, winners: torch.Tensor) -> None:
        """Update the running share of samples (and positions) in which each unit won."""
        batch = len(winners)
        self.samples_seen += batch
        # A plain mean until the period is full, a moving one afterwards.
        period = torch.clamp(self.samples_seen, max=DUTY_CYCLE_PERIOD)
        share = winners.to(self.duty_cycle.dtype).mean(dim=(0, *range(2, winners.dim())), keepdim=True).squeeze(0)
        self.duty_cycle.lerp_(share, torch.clamp(batch / period, max=1.0))


class ColumnGate(nn.Module):
    """Keep, of the five time columns after the second pool, the `k` whose input is loudest, and zero the others.

    One gate for all channels and rows, decided by the input alone, so that an engine knows before conv2 which
    columns it need not compute.
    """

    #: Column j of the second pool sees the input frames 4j to 4j + 15, and all mel bands.
    KERNEL, STRIDE = (32, 16), (32, 4)

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate, [batch, 1, 1, 5] of 0 and 1, for the input `x`, [batch, 1, 32, 32]."""
        energy = functional.avg_pool2d(x, self.KERNEL, self.STRIDE)
        threshold = torch.topk(energy, self.k, dim=3).values[:, :, :, -1:]
        return (energy >= threshold).to(x.dtype)


class PairGate(ColumnGate):
    """Keep the two time columns on either side of the loudest of the three middle columns, and zero the others.

    Neighbouring columns see 12 of 16 input frames in common; columns 0 and 2, 1 and 3 or 2 and 4 see 24 of the 32
    frames together, where the two loudest columns, nearly always neighbours, see 20.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate, [batch, 1, 1, 5] of 0 and 1, for the input `x`, [batch, 1, 32, 32]."""
        middle = functional.avg_pool2d(x, self.KERNEL, self.STRIDE)[:, :, :, 1:4]
        loudest = (middle >= torch.topk(middle, self.k, dim=3).values).to(x.dtype)
        # Column j is kept if column j - 1 or column j + 1 is the loudest. (Padding would be a dozen nodes in ONNX.)
        first, second, third = loudest.split(1, dim=3)
        return torch.cat([first, second, torch.maximum(first, third), second, third], dim=3)

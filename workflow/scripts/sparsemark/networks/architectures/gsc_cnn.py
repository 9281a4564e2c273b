"""The study's network, the GSC CNN of 2,522,128 parameters, and narrower ones of the same shape.

H is the mel axis, W is time. Layer by layer, for one word, at width 1:

    input    1 × 32 × 32    log-mel
    conv1   64 × 28 × 28    5 × 5, batch norm, max-pool 2 -> 64 × 14 × 14, act1
    conv2   64 × 10 × 10    5 × 5, batch norm, max-pool 2 -> 64 ×  5 ×  5, act2, flatten to 1600
    linear1 1500            act3
    linear2 12              logits
"""

import torch
from torch import nn
from torch.nn import functional

from sparsemark.files import InputError
from sparsemark.networks.activation_sparsity import ColumnGate, PairGate

#: Time columns after the second pool, of which `column_gate` keeps some.
COLUMNS = 5


class Network(nn.Module):
    """The GSC CNN.

    Args:
        classes: number of classes.
        width: factor on the channels of both convolutions and on the hidden units.
        column_gate: columns kept, 1 to 5, or "pair"; None keeps all of them, without a gate.

    Raises:
        InputError: an impossible number of columns.
    """

    def __init__(self, classes: int, width: float = 1.0, column_gate: int | str | None = None) -> None:
        super().__init__()
        channels, units = max(1, round(64 * width)), max(1, round(1500 * width))
        self.conv1 = nn.Conv2d(1, channels, 5)
        self.bn1 = nn.BatchNorm2d(channels, affine=False)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 5)
        self.bn2 = nn.BatchNorm2d(channels, affine=False)
        self.act2 = nn.ReLU()
        self.linear1 = nn.Linear(channels * COLUMNS * COLUMNS, units, bias=False)
        self.act3 = nn.ReLU()
        self.linear2 = nn.Linear(units, classes, bias=False)
        self.gate = None
        if column_gate is not None:
            if column_gate != "pair" and (isinstance(column_gate, bool) or column_gate not in range(1, COLUMNS + 1)):
                raise InputError(
                    f"column_gate: expected 'pair' or a number of columns from 1 to {COLUMNS}, got {column_gate!r}"
                )
            self.gate = PairGate() if column_gate == "pair" else ColumnGate(column_gate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, [batch, classes], of normalised log-mel features, [batch, 1, 32, 32]."""
        # Activations come after the pool: pooling sparse maps could multiply their active share by four.
        y = self.act1(functional.max_pool2d(self.bn1(self.conv1(x)), 2))
        y = self.act2(functional.max_pool2d(self.bn2(self.conv2(y)), 2))
        if self.gate is not None:
            y = y * self.gate(x)
        return self.linear2(self.act3(self.linear1(y.flatten(1))))

    def reorder_outputs(self, layer: str, order: torch.Tensor) -> None:
        """Put the outputs of `conv1` into another order, [channels], without changing what the network computes."""
        assert layer == "conv1"
        with torch.no_grad():
            for tensor in (self.conv1.weight, self.conv1.bias, self.bn1.running_mean, self.bn1.running_var):
                tensor.copy_(tensor[order])
            self.conv2.weight.copy_(self.conv2.weight[:, order])

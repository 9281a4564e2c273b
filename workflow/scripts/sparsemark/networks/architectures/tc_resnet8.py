"""TC-ResNet8, a small dense keyword spotter that convolves over time only (Choi et al., 2019).

Mel bands are channels, so the first layer sees all of them at once and every later one has a map of one row: 3 taps
into 16 channels, then three residual blocks of two convolutions with 9 taps, of 24, 32 and 48 channels, each of which
halves the time, then the mean over time and a linear layer. A convolution over all bands of the study's map is the
same as one with bands for channels, and needs no transposition. 0.5 M multiply-accumulates a word.
"""

import torch
from torch import nn

CHANNELS = (16, 24, 32, 48)
BANDS, TAPS = 32, 9


def convolution(inputs: int, outputs: int, taps: int, stride: int) -> nn.Sequential:
    """Return a convolution over time with its batch norm, on maps of one row."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, (1, taps), stride=(1, stride), padding=(0, taps // 2), bias=False),
        nn.BatchNorm2d(outputs),
    )


class Block(nn.Module):
    """Two convolutions and a way around them; all three start with every other frame."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, TAPS, stride=2)
        self.act1 = nn.ReLU()
        self.second = convolution(outputs, outputs, TAPS, stride=1)
        self.around = nn.Sequential(*convolution(inputs, outputs, 1, stride=2), nn.ReLU())
        self.act2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act2(self.second(self.act1(self.first(x))) + self.around(x))


class Network(nn.Module):
    """TC-ResNet8; `width` is a factor on all channels (published as k)."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        first, *others = (max(1, round(channels * width)) for channels in CHANNELS)
        self.first = nn.Sequential(
            nn.Conv2d(1, first, (BANDS, 3), padding=(0, 1), bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(Block(*pair) for pair in zip((first, *others), others, strict=False)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(others[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, [batch, classes], of normalised log-mel features, [batch, 1, 32, time]."""
        return self.linear(self.dropout(self.pool(self.blocks(self.first(x))).flatten(1)))

"""DS-CNN, a small dense keyword spotter of depthwise-separable convolutions (Zhang et al., 2017).

The shape is that of MLPerf Tiny's keyword-spotting reference: a first convolution that strides, then four blocks of a
3 × 3 depthwise and a 1 × 1 convolution, all of 64 channels with batch norm and ReLU, then the mean over the map and a
linear layer. Its input is 49 frames of 10 coefficients, of which a convolution of 10 × 4 taps makes 25 × 5 positions.
Here the input has 32 frames of 32 bands: taps that reach as far in time and frequency, and strides that leave as many
positions (8 × 16), so that it costs what the published one does, 2.8 M multiply-accumulates a word.
"""

import torch
from torch import nn

CHANNELS, BLOCKS = 64, 4


def normalised(convolution: nn.Conv2d) -> nn.Sequential:
    """Return the convolution with its batch norm and ReLU."""
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


class Network(nn.Module):
    """DS-CNN; `width` is a factor on the 64 channels."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        channels = max(1, round(CHANNELS * width))
        self.first = normalised(nn.Conv2d(1, channels, (8, 6), stride=(4, 2), padding=(2, 2), bias=False))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    normalised(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)),
                    normalised(nn.Conv2d(channels, channels, 1, bias=False)),
                )
                for _ in range(BLOCKS)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, [batch, classes], of normalised log-mel features, [batch, 1, mel, time]."""
        return self.linear(self.pool(self.blocks(self.first(x))).flatten(1))

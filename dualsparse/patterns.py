"""Which sparsity pattern a layer's weights have, finest-grained claim first that a kernel can use."""

from dataclasses import dataclass

import numpy as np

#: A layer with more non-zero weights than this counts as dense.
DENSE_ABOVE = 0.9
WINDOW, BLOCK_IN, BLOCK_OUT = 64, 4, 16
#: Channels of a small window, which every instruction set picks from, and outputs in a row that share windows.
SMALL_WINDOW, SHARING = 16, 16


@dataclass(frozen=True)
class Pattern:
    """A layer's weights in numbers."""

    name: str  # dense, unstructured, block4, n_of_16, n_of_64 or block16
    density: float  # share of non-zero weights
    n: int = 0  # n_of_16, n_of_64: the largest number of non-zero weights in a window of so many channels

    def __str__(self) -> str:
        return f"{self.n} of {self.name[5:]}" if self.name.startswith("n_of_") else self.name


def recognise(weight: np.ndarray, input_shape: tuple[int, ...]) -> Pattern:
    """Return the pattern of `weight`, conv [O, I, KH, KW] or linear [O, I].

    A linear layer behind a flatten of [C, H, W] is looked at as the convolution of kernel H × W that it is.

    The names, in the order they are tried: dense (most weights are there); block16 (16 consecutive outputs share their
    zeros); block4 (4 consecutive input channels do); n_of_16 (at most 4 of each aligned 16 input channels are there,
    per output and tap, and 16 consecutive outputs leave out half of these windows or more together); n_of_64 (at most
    16 of each aligned 64 input channels are there, per output and tap); unstructured.
    """
    if weight.ndim == 2:
        spatial = input_shape[1:] if len(input_shape) == 3 else (1, 1)
        weight = weight.reshape(weight.shape[0], -1, *spatial)
    mask = weight != 0
    density = float(mask.mean())
    if density > DENSE_ABOVE:
        return Pattern("dense", density)
    outputs, inputs = mask.shape[:2]
    if outputs % BLOCK_OUT == 0:
        blocks = mask.reshape(outputs // BLOCK_OUT, BLOCK_OUT, -1)
        if _shared(blocks.any(axis=1).mean(), density):
            return Pattern("block16", density)
    if inputs % BLOCK_IN == 0:
        blocks = mask.reshape(outputs, inputs // BLOCK_IN, BLOCK_IN, -1)
        if _shared(blocks.any(axis=2).mean(), density):
            return Pattern("block4", density)
    if inputs % SMALL_WINDOW == 0:
        counts = mask.reshape(outputs, inputs // SMALL_WINDOW, SMALL_WINDOW, -1).sum(axis=2)
        groups = np.pad(counts, ((0, -outputs % SHARING), (0, 0), (0, 0))).reshape(-1, SHARING, *counts.shape[1:])
        most = int(counts.max(initial=0))
        if most <= SMALL_WINDOW // 4 and groups.any(axis=1).mean() <= 0.5:
            return Pattern("n_of_16", density, most)
    if inputs % WINDOW == 0:
        most = int(mask.reshape(outputs, inputs // WINDOW, WINDOW, -1).sum(axis=2).max(initial=0))
        if most <= WINDOW // 4:
            return Pattern("n_of_64", density, most)
    return Pattern("unstructured", density)


def _shared(occupied_blocks: float, density: float) -> bool:
    """Tell whether blocks are nearly full where they aren't empty; quantisation may round a few weights to zero."""
    return occupied_blocks * 0.75 <= density < DENSE_ABOVE

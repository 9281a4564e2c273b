"""What layers are made of beside their weights: windows, grids of 8-bit integers, winners and gates, in NumPy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Arrays = Sequence[np.ndarray]
Attributes = dict[str, Any]


@dataclass(frozen=True)
class Window:
    """A sliding window over (height, width); a 1-D operator is one over (1, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return how many windows fit on an input of `size` (height, width); not positive if none does."""
        result = []
        for axis in range(2):
            begin = self.padding[axis]
            free = size[axis] + begin + self.padding[axis + 2] - self.dilation[axis] * (self.kernel[axis] - 1) - 1
            count = (-(-free // self.stride[axis]) if self.ceil_mode else free // self.stride[axis]) + 1
            # A window that would start in the padding behind the data isn't one.
            if self.ceil_mode and (count - 1) * self.stride[axis] >= size[axis] + begin:
                count -= 1
            result.append(count)
        return result[0], result[1]

    def windows(self, x: np.ndarray, fill: float) -> np.ndarray:
        """Return the windows of x [n, C, H, W] as a view [n, C, OH, OW, KH, KW]; padding has the value `fill`."""
        out = self.output_size(x.shape[2:])
        reach = [(out[i] - 1) * self.stride[i] + self.dilation[i] * (self.kernel[i] - 1) + 1 for i in range(2)]
        behind = [max(reach[i] - x.shape[2 + i] - self.padding[i], 0) for i in range(2)]
        if any(self.padding) or any(behind):
            rows, columns = (self.padding[0], behind[0]), (self.padding[1], behind[1])
            x = np.pad(x, ((0, 0), (0, 0), rows, columns), constant_values=fill)
        (row_stride, column_stride), (row_dilation, column_dilation) = self.stride, self.dilation
        views = sliding_window_view(
            x, (reach[0] - (out[0] - 1) * row_stride, reach[1] - (out[1] - 1) * column_stride), axis=(2, 3)
        )
        views = views[:, :, : reach[0] : row_stride, : reach[1] : column_stride, ::row_dilation, ::column_dilation]
        return views[:, :, : out[0], : out[1]]


def k_winners(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    """Keep each sample's k largest values, and all that equal the smallest of them; the others become zero."""
    (x,) = arrays
    flat = x.reshape(len(x), -1)
    position = flat.shape[1] - attributes["k"]
    threshold = np.partition(flat, position, axis=1)[:, position : position + 1]
    return (flat * (flat >= threshold)).reshape(x.shape)


def column_gate(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    """Zero the columns of x [n, C, H, W] that a gate doesn't keep for the network's input [n, 1, H', W'].

    Equals the exported average pool, comparisons and product; sums stand for means, in the order of
    `layers.ColumnGate`.
    """
    x, network_input = arrays
    keep = gate_columns(network_input, columns=x.shape[3], **attributes)
    return x * keep[:, np.newaxis, np.newaxis].astype(np.float32)


def gate_columns(
    x: np.ndarray, kernel_width: int, stride_width: int, keep: int, columns: int, pair: bool = False
) -> np.ndarray:
    """Return bool [n, columns]: which columns `layers.ColumnGate` keeps for the input x, float32 [n, 1, H, W]."""
    # Sums of a fixed order, because a kernel has to find the same ties: rows downwards, then columns to the right.
    column_sums = np.zeros((len(x), x.shape[3]), np.float32)
    for row in range(x.shape[2]):
        column_sums += x[:, 0, row]
    energy = np.zeros((len(x), columns), np.float32)
    for column in range(columns):
        for w in range(column * stride_width, column * stride_width + kernel_width):
            energy[:, column] += column_sums[:, w]
    return choose_columns(energy, keep, pair)


def choose_columns(energy: np.ndarray, keep: int, pair: bool) -> np.ndarray:
    """Return bool [n, columns]: which columns `layers.ColumnGate` keeps, given their energies [n, columns]."""
    if pair:
        energy = energy[:, 1:-1]
    threshold = np.sort(energy, axis=1)[:, -keep, np.newaxis]
    chosen = energy >= threshold
    return np.pad(chosen, ((0, 0), (0, 2))) | np.pad(chosen, ((0, 0), (2, 0))) if pair else chosen


@dataclass(frozen=True)
class Grid:
    """The grid of a per-tensor quantisation: real = (q - zero_point) * scale, q from `lowest` to `highest`."""

    scale: np.float32
    zero_point: int
    lowest: int
    highest: int

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest real value."""
        scale = float(self.scale)
        return (self.lowest - self.zero_point) * scale, (self.highest - self.zero_point) * scale


#: What runs between layers by itself, on arrays [n, *shape].
OPERATORS: dict[str, Callable[[Arrays, Attributes], np.ndarray]] = {"KWinners": k_winners, "ColumnGate": column_gate}

"""NumPy execution of every operator, with ONNX semantics, on arrays [n, *shape].

The importer runs each once on a sample of zeros to learn shapes, the engine runs those that no kernel fuses, and the
tests take them as the plain statement of what an operator means.
"""

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


def as_images(x: np.ndarray) -> np.ndarray:
    """Return x [n, C, W] as [n, C, 1, W]; images stay as they are."""
    return x[:, :, np.newaxis] if x.ndim == 3 else x


def _like(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Undo `as_images` on y if x is 1-D."""
    return y[:, :, 0] if x.ndim == 3 else y


def per_channel(values: np.ndarray, rank: int) -> np.ndarray:
    """Return `values` [C] in a shape that broadcasts over [n, C, ...] of `rank` axes."""
    return values.reshape(-1, *[1] * (rank - 2))


def conv(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    (x,) = arrays
    weight, bias, groups = attributes["weight"], attributes["bias"], attributes["groups"]
    windows = attributes["window"].windows(as_images(x), 0.0)
    n, channels, height, width = windows.shape[:4]
    rows = windows.reshape(n, groups, channels // groups, height, width, -1).transpose(0, 1, 3, 4, 2, 5)
    rows = rows.reshape(n, groups, height * width, -1)
    matrices = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)
    y = (rows @ matrices).transpose(0, 1, 3, 2).reshape(n, weight.shape[0], height, width)
    return _like(y + bias[:, np.newaxis, np.newaxis], x)


def linear(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    return arrays[0] @ attributes["weight"].T + attributes["bias"]


def matmul(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    return arrays[0] @ attributes["matrix"]


def affine(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    (x,) = arrays
    return x * per_channel(attributes["scale"], x.ndim) + per_channel(attributes["shift"], x.ndim)


def relu(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    return np.maximum(arrays[0], 0)


def max_pool(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    (x,) = arrays
    return _like(attributes["window"].windows(as_images(x), -np.inf).max(axis=(4, 5)), x)


def average_pool(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    (x,) = arrays
    window = attributes["window"]
    images = as_images(x)
    ones = np.ones((1, 1, *images.shape[2:]), np.float32)
    if attributes["count_include_pad"]:
        # Padding counts; what ceil_mode adds behind it does not.
        top, left, bottom, right = window.padding
        height, width = images.shape[2:]
        ones = np.ones((1, 1, height + top + bottom, width + left + right), np.float32)
        window_of_ones = Window(window.kernel, window.stride, (0, 0, 0, 0), window.dilation, window.ceil_mode)
    else:
        window_of_ones = window
    counts = window_of_ones.windows(ones, 0.0).sum(axis=(4, 5))
    sums = window.windows(images, 0.0).sum(axis=(4, 5), dtype=np.float32)
    return _like(sums / counts[:, :, : sums.shape[2], : sums.shape[3]], x)


def global_average_pool(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    (x,) = arrays
    return x.mean(axis=tuple(range(2, x.ndim)), keepdims=True, dtype=np.float32)


def view(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    return arrays[0].reshape(-1, *attributes["shape"])


def binary(function: np.ufunc) -> Callable[[Arrays, Attributes], np.ndarray]:
    """Return the operator of a NumPy function of two operands, one of which may be the attribute `constant`."""

    def operator(arrays: Arrays, attributes: Attributes) -> np.ndarray:
        operands = list(arrays)
        if attributes.get("constant") is not None:
            operands.insert(attributes["constant_position"], attributes["constant"])
        return function(*operands)

    return operator


def softmax(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    (x,) = arrays
    exponents = np.exp(x - x.max(axis=attributes["axis"], keepdims=True))
    return exponents / exponents.sum(axis=attributes["axis"], keepdims=True)


def top_k(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    """The k largest (or smallest) values along an axis, sorted."""
    (x,) = arrays
    axis, k = attributes["axis"], attributes["k"]
    ordered = np.sort(x, axis=axis)
    if attributes["largest"]:
        ordered = np.flip(ordered, axis=axis)
    return ordered[(slice(None),) * axis + (slice(0, k),)]


def slice_(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    return arrays[0][(slice(None), *attributes["slices"])]


def concat(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    return np.concatenate(arrays, axis=attributes["axis"])


def gather(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    return np.take(arrays[0], attributes["indices"], axis=attributes["axis"])


def reduction(function: Callable[..., np.ndarray]) -> Callable[[Arrays, Attributes], np.ndarray]:
    """Return the operator of a NumPy reduction over the attribute `axes`."""

    def operator(arrays: Arrays, attributes: Attributes) -> np.ndarray:
        return function(arrays[0], axis=attributes["axes"], keepdims=attributes["keepdims"])

    return operator


def cast(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    return arrays[0].astype(attributes["dtype"])


def fake_quantize(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    """QuantizeLinear followed by DequantizeLinear: float32 values on the grid of 8-bit integers."""
    grid = attributes["grid"]
    quantized = np.clip(np.rint(arrays[0] / grid.scale) + np.float32(grid.zero_point), grid.lowest, grid.highest)
    return (quantized - np.float32(grid.zero_point)) * grid.scale


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


OPERATORS: dict[str, Callable[[Arrays, Attributes], np.ndarray]] = {
    "Conv": conv,
    "Linear": linear,
    "MatMul": matmul,
    "Affine": affine,
    "Relu": relu,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "View": view,
    "Add": binary(np.add),
    "Sub": binary(np.subtract),
    "Mul": binary(np.multiply),
    "Div": binary(np.divide),
    "Max": binary(np.maximum),
    "Min": binary(np.minimum),
    "GreaterOrEqual": binary(np.greater_equal),
    "Softmax": softmax,
    "TopK": top_k,
    "Slice": slice_,
    "Concat": concat,
    "Gather": gather,
    "ReduceMin": reduction(np.min),
    "ReduceMax": reduction(np.max),
    "ReduceMean": reduction(np.mean),
    "Cast": cast,
    "FakeQuantize": fake_quantize,
    "KWinners": k_winners,
    "ColumnGate": column_gate,
}

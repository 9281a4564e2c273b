"""Fused layers: what the front end hands to the kernels.

A layer is one convolution or one matrix product with everything that can be fused behind it: bias (with a folded
batch normalisation), max-pool, ReLU and the requantisation. Activations between fused convolutions are NHWC; a linear
layer sees its input in ONNX flatten order [C, H, W], and a kernel that reads NHWC permutes its own packed weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

#: A pair along (height, width).
Pair = tuple[int, int]


@dataclass(frozen=True)
class IntegerLayer:
    """One fused layer in 8-bit integers.

    With activations x (uint8), weights w (int8) and the output channel o, a layer computes exactly:

    1. acc = sum((x - input_zero_point) * w) in int32; padding contributes nothing;
    2. max-pool over acc, if `pool`;
    3. y = float32(acc) * multiplier[o] + offset[o]: two float32 roundings, no fused multiply-add;
    4. the output: y itself if `output_float`, else uint8 clip(rint(y), lowest, 255), rint rounding half to even and
       `lowest` = output_zero_point after a ReLU, 0 otherwise;
    5. with `winners`, all but the k largest of a sample's outputs become output_zero_point (real zero). They are
       compared after the rounding, and all that equal the k-th largest stay.
    """

    kind: str  # "conv" or "linear"
    weight: np.ndarray  # int8; conv [O, I / groups, KH, KW]; linear [O, I], I in ONNX flatten order of [C, H, W]
    multiplier: np.ndarray  # float32 [O]; s_in * s_w[o] / s_out, positive (max-pool may run before it)
    offset: np.ndarray  # float32 [O]; bias[o] / s_out + output_zero_point
    input_zero_point: int
    output_zero_point: int
    output_float: bool  # float32 output and no clip: multiplier and offset were made with s_out = 1, zero point 0
    relu: bool
    pool: Pair | None  # max-pool over the accumulators, kernel = stride, floor
    input_shape: tuple[int, ...]  # of one sample: conv (C, H, W); linear (C, H, W) before its flatten, or (I,)
    output_shape: tuple[int, ...]  # of one sample: conv (O, OH, OW) after the pool; linear (O,)
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right, as in ONNX
    dilation: Pair = (1, 1)
    groups: int = 1
    name: str = ""  # of the ONNX node, for messages and `explain`
    active: float = 1.0  # the share of the inputs that are expected not to be zero: an estimate, to choose a kernel
    winners: int | None = None  # k of k-winners, 1 to the number of outputs; None keeps all; never with output_float


@dataclass(frozen=True)
class FloatLayer:
    """One fused layer in float32: y = sum(x * w) + bias, then ReLU, then max-pool. Shapes as in `IntegerLayer`."""

    kind: str
    weight: np.ndarray  # float32
    bias: np.ndarray  # float32 [O]
    relu: bool
    pool: Pair | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    name: str = ""
    active: float = 1.0


@dataclass(frozen=True)
class InputQuantization:
    """How a sequence of integer layers quantises its float32 input x, per tensor.

    q = clip(rint(x * float32(1 / scale)) + zero_point, 0, 255): the zero point comes behind the rounding, as in ONNX;
    the product with the float32 reciprocal replaces a slow division.
    """

    scale: float
    zero_point: int

    @property
    def inverse_scale(self) -> np.float32:
        return np.float32(1) / np.float32(self.scale)


@dataclass(frozen=True)
class ColumnGate:
    """A choice of time columns, made from the network's float32 input before any layer runs.

    With x the input [C, H, W] of one sample (C = 1): s[w] = the float32 sum of x[0, :, w] from first to last row,
    e[j] = the float32 sum of s[w] from w = j * stride_width to j * stride_width + kernel_width - 1, left to right.
    Column j of the output of layer `layer_index` (behind its pool) is computed if e[j] >= the keep-th largest of e
    (with ties more than `keep` columns stay); otherwise the whole column is real zero: the layer's output zero point.

    With `pair`, only the columns that have two neighbours compete, and a column that would stay keeps its two
    neighbours in its place: these see more of the input than the two columns of most energy, which mostly overlap.
    """

    kernel_width: int
    stride_width: int
    keep: int
    columns: int  # width of the gated layer's output
    layer_index: int  # in the list of layers
    pair: bool = False

    @property
    def computed_columns(self) -> int:
        """How many columns are computed (without ties, and without pairs that share a column)."""
        return min(2 * self.keep if self.pair else self.keep, self.columns)


class Program(Protocol):
    """A sequence of layers made ready to run: float32 in, float32 out, whatever lies between.

    The last integer layer has `output_float`. A program holds no mutable state that calls share: several threads may
    call it at the same time, and it releases the GIL while it computes.
    """

    #: Per layer, the name of the kernel that runs it, for `explain`.
    kernels: Sequence[str]

    def __call__(self, x: np.ndarray, out: np.ndarray) -> int:
        """Run 1 to `batch_size` samples.

        Args:
            x: float32 [n, *input shape of the first layer], C-contiguous (NCHW).
            out: float32 [n, *output shape of the last layer], C-contiguous (NCHW), written.

        Returns:
            0; or 1 if `x` holds a value that is not finite (`out` then means nothing).
        """
        ...

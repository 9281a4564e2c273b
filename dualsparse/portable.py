"""A program for every sequence of layers on every CPU: sparse, correct, and vectorised by the compiler only.

One kernel serves all: a layer is a list of (offset into the padded input, weight) per output, and only non-zero
weights are in it. A linear layer is the same with the batch as its image's width.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numba
import numpy as np

from dualsparse.caching import cached_njit
from dualsparse.layers import ColumnGate, FloatLayer, InputQuantization, IntegerLayer
from dualsparse.operators import Arrays, Attributes, Window, gate_columns
from dualsparse.reference import quantize

#: Samples that go through all layers together: enough to fill vectors of a linear layer, few enough for the cache.
CHUNK = 64


@functools.cache
def _compiled(integer: bool) -> Callable[..., None]:
    """Return `multiply_sparse`, compiled for integers or float32 when it is first needed (or loaded from the cache)."""
    i64, i32, f32 = numba.int64, numba.int32, numba.float32
    value, weight = (numba.int16, i32) if integer else (f32, f32)
    samples = numba.types.Array(value, 2, "C", readonly=True)  # takes writable ones, too
    signature = numba.void(
        samples, i32[::1], i32[::1], weight[::1], i64, i64, i64, i64, i64, i64, i64,
        f32[::1], f32[::1], numba.boolean, weight[::1], f32[:, :, ::1],
    )  # fmt: skip
    return cached_njit(signature, nogil=True)(multiply_sparse)


def multiply_sparse(
    x, starts, offsets, weights, offset_step, rows, columns, row_step, column_step, pool_rows, pool_columns,
    multiplier, summand, relu, sums, out,
):  # fmt: skip
    """Write out[n, O, pooled cells] = relu(max-pool(sums of products) * multiplier + summand).

    Args:
        x: [n, size]: padded samples, with zero (integers: the zero point) subtracted.
        starts, offsets, weights: of output o the non-zero weights starts[o] to starts[o + 1]; offsets, in units of
            `offset_step`, are those of the weight's first product.
        rows, columns: size of the image of sums; row_step, column_step: distance of their inputs in x.
        sums: [(rows - 1) * row_step + (columns - 1) * column_step + 1], scratch.
    """
    pooled_rows, pooled_columns = rows // pool_rows, columns // pool_columns
    # With a stride, sums that nobody wants are computed between those of the image: whole runs fill vectors.
    span = sums.shape[0]
    for sample in range(x.shape[0]):
        for o in range(starts.shape[0] - 1):
            sums[:] = 0
            k, end = starts[o], starts[o + 1]
            if span == 1:
                # Four partial sums, because an addition takes four cycles; unsigned, because those need no wrapping.
                places, factors, row_of_x = offsets[k:end], weights[k:end], x[sample]
                a, b, c, d = sums[0], sums[0], sums[0], sums[0]
                for quad in range((end - k) // 4):
                    j = 4 * quad
                    a += row_of_x[np.uint32(places[j])] * factors[j]
                    b += row_of_x[np.uint32(places[j + 1])] * factors[j + 1]
                    c += row_of_x[np.uint32(places[j + 2])] * factors[j + 2]
                    d += row_of_x[np.uint32(places[j + 3])] * factors[j + 3]
                sums[0] = (a + b) + (c + d)
                k += (end - k) // 4 * 4
            while k + 4 <= end:
                # Four weights for each load and store of the sums.
                a, b, c, d = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
                xa = x[sample, offsets[k] * offset_step :]
                xb = x[sample, offsets[k + 1] * offset_step :]
                xc = x[sample, offsets[k + 2] * offset_step :]
                xd = x[sample, offsets[k + 3] * offset_step :]
                for i in range(span):
                    sums[i] += xa[i] * a + xb[i] * b + xc[i] * c + xd[i] * d
                k += 4
            while k < end:
                a, xa = weights[k], x[sample, offsets[k] * offset_step :]
                for i in range(span):
                    sums[i] += xa[i] * a
                k += 1
            for row in range(pooled_rows):
                for column in range(pooled_columns):
                    corner = row * pool_rows * row_step + column * pool_columns * column_step
                    best = sums[corner]
                    for i in range(pool_rows):
                        for j in range(pool_columns):
                            best = max(best, sums[corner + i * row_step + j * column_step])
                    value = np.float32(np.float32(best) * multiplier[o]) + summand[o]
                    if relu and value < 0:
                        value = np.float32(0)
                    out[sample, o, row * pooled_columns + column] = value


def keep_largest(x, bits, k, keys, counts, out):
    """Write out = x where it is at least the k-th largest value of its row, else 0.

    Finds that value digit by digit, by counting: the time doesn't depend on the values, as that of a selection by
    comparisons does, whose branches no processor can predict.

    Args:
        x, bits: float32 and int32 views of the same [n, units].
        keys: uint32 [units], scratch; counts: int32 [4096], scratch.
    """
    units = x.shape[1]
    for row in range(x.shape[0]):
        for i in range(units):
            # Unsigned numbers in the order of the floats.
            key = np.int64(bits[row, i]) & 0xFFFFFFFF
            keys[i] = key ^ 0xFFFFFFFF if key >> 31 else key | 0x80000000
        prefix, remaining = np.int64(0), k
        for shift, digits in ((20, 4096), (10, 1024), (0, 1024)):
            counts[:] = 0
            for i in range(units):
                digit = (np.int64(keys[i]) >> shift) - prefix * digits
                if 0 <= digit < digits:
                    counts[digit] += 1
            digit = digits - 1
            while counts[digit] < remaining:
                remaining -= counts[digit]
                digit -= 1
            prefix = prefix * digits + digit
        for i in range(units):
            out[row, i] = x[row, i] if keys[i] >= prefix else np.float32(0)


@functools.cache
def _compiled_keep_largest() -> Callable[..., None]:
    i32, f32 = numba.int32, numba.float32
    signature = numba.void(f32[:, ::1], i32[:, ::1], numba.int64, numba.uint32[::1], i32[::1], f32[:, ::1])
    return cached_njit(signature, nogil=True)(keep_largest)


def k_winners(arrays: Arrays, attributes: Attributes) -> np.ndarray:
    """The operator KWinners, as `operators.k_winners` states it."""
    x = np.ascontiguousarray(arrays[0] + np.float32(0))  # a negative zero becomes a zero: they are equal
    flat, out = x.reshape(len(x), -1), np.empty_like(x)
    scratch = np.empty(flat.shape[1], np.uint32), np.empty(4096, np.int32)
    _compiled_keep_largest()(flat, flat.view(np.int32), attributes["k"], *scratch, out.reshape(flat.shape))
    return out


@dataclass(frozen=True)
class _Packed:
    """A layer in the form that `multiply_sparse` reads."""

    layer: FloatLayer | IntegerLayer
    starts: np.ndarray  # int32 [O + 1]
    offsets: np.ndarray  # int32 [non-zero weights]
    weights: np.ndarray  # float32 or int32 [non-zero weights]
    multiplier: np.ndarray  # float32 [O]
    summand: np.ndarray  # float32 [O]


def _pack(layer: FloatLayer | IntegerLayer) -> _Packed:
    weight = layer.weight
    outputs = weight.shape[0]
    if layer.kind == "linear":
        output, offset = np.nonzero(weight)
        values = weight[output, offset]
    else:
        output, channel, row, column = np.nonzero(weight)
        values = weight[output, channel, row, column]
        channel = channel + output // (outputs // layer.groups) * weight.shape[1]
        top, left, bottom, right = layer.padding
        height, width = layer.input_shape[1] + top + bottom, layer.input_shape[2] + left + right
        offset = (channel * height + row * layer.dilation[0]) * width + column * layer.dilation[1]
    starts = np.searchsorted(output, np.arange(outputs + 1)).astype(np.int32)
    if isinstance(layer, IntegerLayer):
        multiplier, summand, dtype = layer.multiplier, layer.offset, np.int32
    else:
        multiplier, summand, dtype = np.ones(outputs, np.float32), layer.bias, np.float32
    return _Packed(layer, starts, offset.astype(np.int32), values.astype(dtype), multiplier, summand)


class PortableProgram:
    """Runs layers one after the other. Fulfils `layers.Program`."""

    def __init__(
        self,
        layers: Sequence[FloatLayer | IntegerLayer],
        gate: ColumnGate | None,
        quantization: InputQuantization | None,
    ) -> None:
        self.kernels = ["portable"] * len(layers)
        self._packed = [_pack(layer) for layer in layers]
        self._multiply = _compiled(quantization is not None)
        self._gate = gate
        self._quantization = quantization

    def __call__(self, x: np.ndarray, out: np.ndarray) -> int:
        return self._run(x, out, None)

    def layer_seconds(self, x: np.ndarray, out: np.ndarray) -> list[float]:
        """Run like a call and return the seconds that each layer took."""
        seconds = [0.0] * len(self._packed)
        self._run(x, out, seconds)
        return seconds

    def _run(self, x: np.ndarray, out: np.ndarray, seconds: list[float] | None) -> int:
        if not np.isfinite(x).all():
            return 1
        for start in range(0, len(x), CHUNK):
            self._run_chunk(x[start : start + CHUNK], out[start : start + CHUNK], seconds)
        return 0

    def _run_chunk(self, x: np.ndarray, out: np.ndarray, seconds: list[float] | None) -> None:
        first = self._packed[0].layer
        keep, gate = None, self._gate
        if gate is not None:
            images = x.reshape(len(x), *first.input_shape)
            keep = gate_columns(images, gate.kernel_width, gate.stride_width, gate.keep, gate.columns, gate.pair)
        y = x
        if self._quantization is not None:
            # int16 holds a uint8 minus its zero point.
            y = quantize(x, self._quantization).astype(np.int16) - np.int16(first.input_zero_point)
        for index, packed in enumerate(self._packed):
            started = perf_counter()
            y = _run_layer(self._multiply, packed, y.reshape(len(x), *packed.layer.input_shape))
            if gate is not None and index == gate.layer_index:
                zero = np.float32(getattr(packed.layer, "output_zero_point", 0))
                y = np.where(keep[:, np.newaxis, np.newaxis], y, zero)
            if not getattr(packed.layer, "output_float", True):
                lowest = packed.layer.output_zero_point if packed.layer.relu else 0
                y = np.clip(np.rint(y), lowest, 255) - np.float32(packed.layer.output_zero_point)
                if packed.layer.winners is not None:
                    y = k_winners([y], {"k": packed.layer.winners})
                y = y.astype(np.int16)
            if seconds is not None:
                seconds[index] += perf_counter() - started
        out.reshape(y.shape)[:] = y


def _run_layer(multiply: Callable[..., None], packed: _Packed, x: np.ndarray) -> np.ndarray:
    """Return float32 [n, *output_shape] before rounding and gate; x is float32 or int16 [n, *input_shape].

    `multiply` is `multiply_sparse`, compiled for the type of x.
    """
    layer, n = packed.layer, len(x)
    outputs = len(packed.starts) - 1
    # Integer layers are clipped at their zero point when rounding; here a ReLU would cut at real zero.
    relu = layer.relu and getattr(layer, "output_float", True)
    if layer.kind == "linear":
        flat = np.ascontiguousarray(x.reshape(n, -1).T).reshape(1, -1)
        out = np.empty((1, outputs, n), np.float32)
        geometry = (n, 1, n, 0, 1, 1, 1)
        span = n
    else:
        top, left, bottom, right = layer.padding
        if any(layer.padding):
            x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        width = x.shape[3]
        rows, columns = Window(layer.weight.shape[2:], layer.stride, dilation=layer.dilation).output_size(x.shape[2:])
        flat = np.ascontiguousarray(x).reshape(n, -1)
        pool = layer.pool or (1, 1)
        out = np.empty((n, outputs, (rows // pool[0]) * (columns // pool[1])), np.float32)
        geometry = (1, rows, columns, width * layer.stride[0], layer.stride[1], *pool)
        span = (rows - 1) * geometry[3] + (columns - 1) * layer.stride[1] + 1
    sums = np.empty(span, packed.weights.dtype)
    multiply(
        flat,
        packed.starts,
        packed.offsets,
        packed.weights,
        *geometry,
        packed.multiplier,
        packed.summand,
        relu,
        sums,
        out,
    )
    if layer.kind == "linear":
        return out[0].T
    return out.reshape(n, *layer.output_shape)

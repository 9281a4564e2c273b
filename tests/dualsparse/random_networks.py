"""Networks of fused layers with random weights, for the tests of kernels."""

import numpy as np

from dualsparse.layers import ColumnGate, FloatLayer, InputQuantization, IntegerLayer

#: A gate of the study's shapes.
GATE = ColumnGate(kernel_width=16, stride_width=4, keep=2, columns=5, layer_index=1)


def n_of_64(rng: np.random.Generator, weight: np.ndarray, n: int, sharing: int = 1) -> np.ndarray:
    """Keep n weights of each 64 along the last axis, the same of `sharing` outputs in a row (the first axis)."""
    outputs, *taps, channels = weight.shape
    rank = np.argsort(np.argsort(rng.random((-(-outputs // sharing), *taps, -(-channels // 64), 64))))
    mask = np.repeat(rank < n, sharing, axis=0).reshape(-1, *taps, rank.shape[-2] * 64)
    return (weight * mask[:outputs, ..., :channels]).astype(np.int8)


def n_of_16(rng: np.random.Generator, weight: np.ndarray, n: int, sharing: int) -> np.ndarray:
    """Keep n weights of one window of 16 along the last axis, the same window for `sharing` outputs in a row."""
    outputs, *taps, channels = weight.shape
    windows = rng.integers(0, channels // 16, (-(-outputs // sharing), *taps, 1, 1))
    chosen = np.repeat(windows == np.arange(channels // 16)[:, np.newaxis], sharing, axis=0)[:outputs]
    rank = np.argsort(np.argsort(rng.random((outputs, *taps, channels // 16, 16))))
    return (weight * ((rank < n) & chosen).reshape(weight.shape)).astype(np.int8)


class Network:
    """Layers behind one another, with random weights and scales that make use of the range of a byte."""

    def __init__(self, seed: int, input_shape: tuple[int, ...], zero_point: int):
        self.rng = np.random.default_rng(seed)
        self.quantization = InputQuantization(0.03, zero_point)
        self.layers: list[IntegerLayer] = []
        self.shape, self.zero_point = input_shape, zero_point

    def _add(self, kind: str, weight: np.ndarray, output_shape, *, relu=True, zero_point=0, last=False, **settings):
        outputs = len(weight)
        terms = max(1, np.count_nonzero(weight) / outputs)
        scale = 20 / (74 * 74 * np.sqrt(terms)) * (0.5 + self.rng.random(outputs))
        offset = 30 * self.rng.standard_normal(outputs) + zero_point
        layer = IntegerLayer(
            kind=kind,
            weight=weight,
            multiplier=scale.astype(np.float32),
            offset=offset.astype(np.float32),
            input_zero_point=self.zero_point,
            output_zero_point=0 if last else zero_point,
            output_float=last,
            relu=relu,
            pool=settings.pop("pool", None),
            input_shape=self.shape,
            output_shape=output_shape,
            **settings,
        )
        self.layers.append(layer)
        self.shape, self.zero_point = output_shape, zero_point
        return self

    def conv(
        self,
        outputs: int,
        kernel: tuple[int, int],
        n: int | None = None,
        density: float = 1.0,
        window_sharing=0,
        **settings,
    ):
        channels, height, width = self.shape
        weight = self.rng.integers(-127, 128, (outputs, *kernel, channels)).astype(np.int8)
        weight *= self.rng.random(weight.shape) < density
        weight = n_of_64(self.rng, weight, n) if n else weight
        weight = n_of_16(self.rng, weight, 4, window_sharing) if window_sharing else weight
        stride, dilation = settings.get("stride", (1, 1)), settings.get("dilation", (1, 1))
        padding, pool = settings.get("padding", (0, 0, 0, 0)), settings.get("pool") or (1, 1)
        size = [
            ((extent + padding[i] + padding[i + 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1) // pool[i]
            for i, extent in enumerate((height, width))
        ]
        return self._add("conv", weight.transpose(0, 3, 1, 2).copy(), (outputs, *size), **settings)

    def linear(
        self, outputs: int, n: int | None = None, density: float = 1.0, sharing: int = 1, window_sharing=0, **settings
    ):
        channels, positions = self.shape[0], int(np.prod(self.shape[1:]))
        weight = self.rng.integers(-127, 128, (outputs, positions, channels)).astype(np.int8)
        weight *= self.rng.random(weight.shape) < density
        weight = n_of_64(self.rng, weight, n, sharing) if n else weight
        weight = n_of_16(self.rng, weight, 4, window_sharing) if window_sharing else weight
        return self._add("linear", weight.swapaxes(1, 2).reshape(outputs, -1).copy(), (outputs,), **settings)

    def inputs(self, samples: int) -> np.ndarray:
        return self.rng.standard_normal((samples, *self.layers[0].input_shape)).astype(np.float32)


def float_layers(network: Network) -> list[FloatLayer]:
    """Layers of the same shapes and zeros in float32."""
    return [
        FloatLayer(
            kind=layer.kind,
            weight=(layer.weight * np.float32(0.004)),
            bias=layer.offset / 50,
            relu=layer.relu,
            pool=layer.pool,
            input_shape=layer.input_shape,
            output_shape=layer.output_shape,
            stride=layer.stride,
            padding=layer.padding,
        )
        for layer in network.layers
    ]

"""The plain statement, in NumPy, of what a plan computes. Slow; the tests hold every kernel to it.

Integer layers are exact: a kernel must give the same bits. Float layers are summed in another order than a kernel
does it, so they agree to a tolerance only.
"""

import numpy as np

from dualsparse.layers import ColumnGate, FloatLayer, InputQuantization, IntegerLayer
from dualsparse.operators import OPERATORS, Window, gate_columns
from dualsparse.plan import LayerStep, Plan


def run_plan(plan: Plan, x: np.ndarray) -> np.ndarray:
    """Run a plan of one input and one output, none of which is ONNX Runtime's, on x, float32 [n, *input shape]."""
    values = {plan.graph.inputs[0]: x}
    for step in plan.steps:
        if isinstance(step, LayerStep):
            sources = values[step.input].reshape(step.samples, *step.layers[0].input_shape)
            y = run_layers(step.layers, step.gate, step.quantization, sources)
        else:
            shapes = [plan.shape(name) for name in step.node.inputs]
            arrays = [values[name].reshape(shape) for name, shape in zip(step.inputs, shapes, strict=True)]
            y = OPERATORS[step.node.op](arrays, step.node.attributes)
        values[step.output] = y.reshape(plan.shape(step.output))
    return values[plan.outputs[plan.graph.outputs[0]]]


def run_layers(
    layers: tuple[FloatLayer | IntegerLayer, ...],
    gate: ColumnGate | None,
    quantization: InputQuantization | None,
    x: np.ndarray,
) -> np.ndarray:
    """Run a sequence of layers on x, float32 [n, ...], and return float32 [n, *output shape of the last layer]."""
    keep = None
    if gate is not None:
        images = x.reshape(len(x), *layers[0].input_shape)
        keep = gate_columns(images, gate.kernel_width, gate.stride_width, gate.keep, gate.columns, gate.pair)
    y = x if quantization is None else quantize(x, quantization)
    for index, layer in enumerate(layers):
        y = y.reshape(len(x), *layer.input_shape)
        y = run_integer_layer(layer, y) if isinstance(layer, IntegerLayer) else run_float_layer(layer, y)
        if gate is not None and index == gate.layer_index:
            # Real zero is the zero point of 8-bit outputs and 0.0 of float32 outputs.
            zero = y.dtype.type(getattr(layer, "output_zero_point", 0))
            y = np.where(keep[:, np.newaxis, np.newaxis], y, zero)
    return y


def quantize(x: np.ndarray, quantization: InputQuantization) -> np.ndarray:
    """Return x as uint8 on the grid of `quantization`."""
    rounded = np.rint(x * quantization.inverse_scale) + np.float32(quantization.zero_point)
    return np.clip(rounded, 0, 255).astype(np.uint8)


def run_integer_layer(layer: IntegerLayer, x: np.ndarray) -> np.ndarray:
    """Run one integer layer on x, uint8 [n, *input_shape]; return uint8 or float32 [n, *output_shape] (NCHW)."""
    centred = x.astype(np.int64) - layer.input_zero_point
    accumulators = _pool(layer, _products(layer, centred))
    channel = (slice(None), *[np.newaxis] * (accumulators.ndim - 2))
    y = accumulators.astype(np.float32) * layer.multiplier[channel] + layer.offset[channel]
    if layer.output_float:
        return np.maximum(y, np.float32(0)) if layer.relu else y
    lowest = layer.output_zero_point if layer.relu else 0
    levels = np.clip(np.rint(y), lowest, 255).astype(np.uint8)
    return levels if layer.winners is None else _keep_winners(levels, layer.winners, layer.output_zero_point)


def _keep_winners(levels: np.ndarray, k: int, zero_point: int) -> np.ndarray:
    """Return `levels`, uint8 [n, ...], with all that are below the k-th largest of their sample at the zero point."""
    least = np.sort(levels.reshape(len(levels), -1), axis=1)[:, -k]
    return np.where(levels >= least.reshape(-1, *[1] * (levels.ndim - 1)), levels, np.uint8(zero_point))


def run_float_layer(layer: FloatLayer, x: np.ndarray) -> np.ndarray:
    """Run one float layer on x, float32 [n, *input_shape]; return float32 [n, *output_shape] (NCHW)."""
    y = _products(layer, x)
    y = _pool(layer, y + layer.bias[(slice(None), *[np.newaxis] * (y.ndim - 2))])
    return np.maximum(y, np.float32(0)) if layer.relu else y


def _products(layer: FloatLayer | IntegerLayer, x: np.ndarray) -> np.ndarray:
    """Return the sums of products of a layer, in the type of x; padding is zero."""
    weight = layer.weight.astype(x.dtype)
    if layer.kind == "linear":
        return x.reshape(len(x), -1) @ weight.T
    window = Window(weight.shape[2:], layer.stride, layer.padding, layer.dilation)
    windows = window.windows(x, 0)
    inputs, outputs = weight.shape[1], weight.shape[0] // layer.groups
    parts = [
        np.einsum(
            "nchwij,ocij->nohw",
            windows[:, group * inputs : (group + 1) * inputs],
            weight[group * outputs : (group + 1) * outputs],
            optimize=True,
        )
        for group in range(layer.groups)
    ]
    return np.concatenate(parts, axis=1)


def _pool(layer: FloatLayer | IntegerLayer, y: np.ndarray) -> np.ndarray:
    if layer.pool is None:
        return y
    return Window(layer.pool, layer.pool).windows(y, 0).max(axis=(4, 5))

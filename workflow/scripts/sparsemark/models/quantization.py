"""What the quantisation tools share: their arguments, the model to quantise, and the ranges of its activations."""

import argparse
from pathlib import Path

import numpy as np
import onnx

from sparsemark.models.calibration import batches
from sparsemark.models.onnx_model import batch_size_of

#: The settings of an option that two of the tools have.
KEEP_ORDER = {"action": "store_true", "help": "leave each ReLU behind its max-pool instead of moving it before it"}


def parse_arguments(description: str, arguments: list[str] | None, **options: dict) -> argparse.Namespace:
    """Return the arguments of a quantisation tool: --model, --calibration, --out and its own `options`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="FP32 ONNX file with a fixed batch size")
    parser.add_argument("--calibration", type=Path, required=True, help="npz with x, float32 [clips, 1, mels, frames]")
    parser.add_argument("--out", type=Path, required=True, help="INT8 model to write")
    for name, settings in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    return parser.parse_args(arguments)


def activation_ranges(model: onnx.ModelProto, tensors: list[str], clips: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest value that each tensor takes over the clips, computed by ONNX Runtime in FP32."""
    import onnxruntime

    inner = [name for name in tensors if name != model.graph.input[0].name]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner if name not in outputs
    )
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    ranges = dict.fromkeys(tensors, (np.inf, -np.inf))
    for batch in batches(clips, batch_size_of(model)):
        values = dict(zip(inner, session.run(inner, {model.graph.input[0].name: batch}), strict=True))
        values[model.graph.input[0].name] = batch
        for name, (low, high) in ranges.items():
            ranges[name] = (min(low, float(values[name].min())), max(high, float(values[name].max())))
    return ranges


def int8_weights(weights: np.ndarray, axis: int, largest_integer: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Return symmetric int8 weights and their float32 scales, one per index of `axis` (shape broadcasts)."""
    other_axes = tuple(index for index in range(weights.ndim) if index != axis)
    largest = np.abs(weights).max(axis=other_axes, keepdims=True)
    scales = (np.where(largest > 0, largest, 1.0) / largest_integer).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales

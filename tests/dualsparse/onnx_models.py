"""ONNX models for the tests, built node by node, and ONNX Runtime as the independent reference."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from dualsparse import Engine
from dualsparse.onnx_import import import_onnx
from dualsparse.plan import make_plan


class ModelBuilder:
    """Appends nodes to a chain: each method reads `self.tensor` (or what it is given) and moves it on."""

    def __init__(
        self, input_shape: tuple[int, ...], seed: int = 0, batch: int | str = "batch", opset: int = 13
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.input_shape, self.batch, self.opset = input_shape, batch, opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.tensor = "input"
        self.shape = input_shape  # of one sample; kept by the methods that need it

    def constant(self, array: np.ndarray) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> "ModelBuilder":
        """Append a node that reads `inputs`, by default the end of the chain."""
        number = len(self.nodes)
        names = [f"tensor{number}"] + [f"tensor{number}.{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(op, inputs or [self.tensor], names, f"{op.lower()}{number}", **attributes))
        self.tensor = names[0]
        return self

    def weights(self, *shape: int, density: float = 1.0) -> np.ndarray:
        """Return random float32 weights that keep activations at the size of their inputs."""
        values = self.rng.normal(size=shape) * (self.rng.random(shape) < density)
        fan_in = max(np.prod(shape[1:]) * density, 1)
        return (values / np.sqrt(fan_in)).astype(np.float32)

    def conv(self, outputs: int, kernel: tuple[int, ...], density: float = 1.0, groups: int = 1, **attributes: object):
        """Append a convolution with bias; the caller keeps `self.shape` right through `infer`."""
        weight = self.weights(outputs, self.shape[0] // groups, *kernel, density=density)
        bias = self.rng.normal(size=outputs).astype(np.float32)
        self.node("Conv", self.tensor, self.constant(weight), self.constant(bias), group=groups, **attributes)
        return self.infer()

    def gemm(self, outputs: int, density: float = 1.0, bias: bool = True):
        weight = self.weights(outputs, self.shape[0], density=density)
        inputs = [self.tensor, self.constant(weight)]
        if bias:
            inputs.append(self.constant(self.rng.normal(size=outputs).astype(np.float32)))
        self.node("Gemm", *inputs, transB=1)
        self.shape = (outputs,)
        return self

    def flatten(self):
        self.node("Flatten", axis=1)
        self.shape = (int(np.prod(self.shape)),)
        return self

    def batch_norm(self):
        channels = self.shape[0]
        values = [self.rng.normal(size=channels), self.rng.normal(size=channels), self.rng.normal(size=channels)]
        names = [self.constant(v.astype(np.float32)) for v in values]
        names.append(self.constant(self.rng.uniform(0.5, 2, channels).astype(np.float32)))
        return self.node("BatchNormalization", self.tensor, *names)

    def k_winners(self, k: int):
        """Append x * (x >= the k-th largest of x), as exporters of TopK write it."""
        x, rank = self.tensor, len(self.shape)
        self.node("Flatten", x, axis=1)
        self.node("TopK", self.tensor, self.constant(np.array([k])), outputs=2, axis=1)
        bounds = [self.constant(np.array([value])) for value in (-1, 2**63 - 1, 1, 1)]
        self.node("Slice", self.tensor, *bounds)
        self.node("Reshape", self.tensor, self.constant(np.array([-1] + [1] * rank)))
        self.node("GreaterOrEqual", x, self.tensor)
        self.node("Cast", to=onnx.TensorProto.FLOAT)
        return self.node("Mul", x, self.tensor)

    def column_gate(self, kernel_width: int, stride_width: int, keep: int):
        """Append x * (energy of the input's columns >= its keep-th largest)."""
        x, height = self.tensor, self.input_shape[1]
        self.node("AveragePool", "input", kernel_shape=[height, kernel_width], strides=[height, stride_width])
        energy = self.tensor
        self.node("TopK", energy, self.constant(np.array([keep])), outputs=2, axis=3)
        bounds = [self.constant(np.array([value])) for value in (-1, 2**63 - 1, 3, 1)]
        self.node("Slice", self.tensor, *bounds)
        self.node("GreaterOrEqual", energy, self.tensor)
        self.node("Cast", to=onnx.TensorProto.FLOAT)
        return self.node("Mul", x, self.tensor)

    def pair_gate(self, kernel_width: int, stride_width: int):
        """Append x * (the two neighbours of the loudest of the columns that have two), for five columns."""
        x, height = self.tensor, self.input_shape[1]
        self.node("AveragePool", "input", kernel_shape=[height, kernel_width], strides=[height, stride_width])
        bounds = [self.constant(np.array([value])) for value in (1, 4, 3, 1)]
        middle = self.node("Slice", self.tensor, *bounds).tensor
        self.node("TopK", middle, self.constant(np.array([1])), outputs=2, axis=3)
        self.node("GreaterOrEqual", middle, self.tensor).node("Cast", to=onnx.TensorProto.FLOAT)
        first = self.node("Split", self.tensor, self.constant(np.array([1, 1, 1])), outputs=3, axis=3).tensor
        second, third = f"{first}.1", f"{first}.2"
        self.node("Max", first, third)
        self.node("Concat", first, second, self.tensor, second, third, axis=3)
        return self.node("Mul", x, self.tensor)

    def quantize(self, scale: float, zero_point: int, dtype: type = np.uint8):
        """Append QuantizeLinear and DequantizeLinear."""
        names = self.constant(np.float32(scale)), self.constant(np.array(zero_point, dtype))
        self.node("QuantizeLinear", self.tensor, *names)
        return self.node("DequantizeLinear", self.tensor, *names)

    def quantized_weight(self, weight: np.ndarray, axis: int = 0, per_channel: bool = True) -> str:
        """Append the DequantizeLinear of int8 weights and return its output."""
        others = tuple(i for i in range(weight.ndim) if i != axis)
        largest = np.abs(weight).max(axis=others if per_channel else None)
        scale = np.maximum(largest / 127, 1e-6).astype(np.float32)
        shape = [1] * weight.ndim
        if per_channel:
            shape[axis] = -1
        integers = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
        tensor = self.tensor
        names = self.constant(integers), self.constant(scale), self.constant(np.zeros(scale.shape, np.int8))
        self.node("DequantizeLinear", *names, axis=axis)
        result, self.tensor = self.tensor, tensor
        return result

    def infer(self):
        """Read the shape of the chain's end from ONNX's own shape inference."""
        model = onnx.shape_inference.infer_shapes(self.model(declare_output=False), strict_mode=True)
        value = next(v for v in model.graph.output if v.name == self.tensor)
        self.shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim[1:])
        return self

    def model(self, declare_output: bool = True) -> onnx.ModelProto:
        shape = None if not declare_output else [self.batch, *[f"d{i}" for i in range(len(self.shape))]]
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [self.batch, *self.input_shape])],
            [helper.make_tensor_value_info(self.tensor, onnx.TensorProto.FLOAT, shape)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 10
        return model

    def content(self) -> bytes:
        return self.model().SerializeToString()

    def save(self, path: Path) -> Path:
        path.write_bytes(self.content())
        return path


def run_onnxruntime(content: bytes, x: np.ndarray, optimise: bool = True) -> np.ndarray:
    """Return the output of ONNX Runtime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def own_engine(source: Path | bytes, batch_size: int | None = None, threads: int = 1, instruction_set=None) -> Engine:
    """Return an engine in which our layers run all that they can, whether or not ONNX Runtime would be faster."""
    return Engine(make_plan(import_onnx(source, batch_size)), threads, instruction_set)


def random_input(builder: ModelBuilder, batch_size: int, seed: int = 1) -> np.ndarray:
    shape = (batch_size, *builder.input_shape)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    """Compare with a tolerance relative to the largest expected value (at least 1)."""
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())

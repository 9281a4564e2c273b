"""Write an ONNX network as a LiteRT (TensorFlow Lite) file, FP32 or INT8, without TensorFlow.

LiteRT wants channels last. The input has one channel, so its values stay in place; convolutions get their weights
transposed; the matrix product behind a flatten gets its rows in the new order. No transpose is left at run time.

INT8 (rule quantize_litert): activations int8 with a zero point, weights int8, symmetric, one scale per output channel,
int32 biases, which is LiteRT's own full-integer scheme. Ranges are those that the calibration clips reach.
"""

from dataclasses import dataclass, field
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

from sparsemark.files import InputError, atomic_path
from sparsemark.models.calibration import load_calibration
from sparsemark.models.onnx_model import load_model
from sparsemark.models.quantization import activation_ranges, int8_weights

#: LiteRT's file identifier and schema version.
IDENTIFIER, VERSION = b"TFL3", 3
#: Versions of the operators that take int8; older readers refuse newer ones.
OPERATOR_VERSIONS = {"CONV_2D": 3, "MAX_POOL_2D": 2, "FULLY_CONNECTED": 5, "QUANTIZE": 1, "DEQUANTIZE": 2, "RESHAPE": 1}


class NoCounterpart(Exception):
    """LiteRT has nothing for a part of the network, or this converter does not know it; the message names the part."""


@dataclass
class Value:
    """An activation of the ONNX graph: its tensor in the file, and its shape with channels last."""

    tensor: int
    shape: tuple[int, ...]
    #: Set behind a flatten: the position in the ONNX order of every element of a row, int [elements].
    order: np.ndarray | None = None


@dataclass
class Writer:
    """Collects tensors and operators of one LiteRT subgraph."""

    ranges: dict[str, tuple[float, float]] | None
    tensors: list = field(default_factory=list)
    buffers: list = field(default_factory=lambda: [schema.BufferT()])
    codes: list[str] = field(default_factory=list)
    operators: list = field(default_factory=list)

    def tensor(self, name: str, shape: tuple, kind: int, data: np.ndarray | None = None, quantized=None) -> int:
        """Add a tensor and return its number. `quantized` is (scales, zero points) or None."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        if quantized is not None:
            scales, zero_points = quantized
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.atleast_1d(scales).astype(np.float32)
            tensor.quantization.zeroPoint = np.atleast_1d(zero_points).astype(np.int64)
            tensor.quantization.quantizedDimension = 0
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def activation(self, name: str, shape: tuple, like: int | None = None) -> int:
        """Add an activation; in INT8 its range is that of the ONNX tensor `name`, or that of the tensor `like`."""
        if self.ranges is None:
            return self.tensor(name, shape, schema.TensorType.FLOAT32)
        if like is not None:
            source = self.tensors[like].quantization
            return self.tensor(name, shape, schema.TensorType.INT8, quantized=(source.scale, source.zeroPoint))
        low, high = min(self.ranges[name][0], 0.0), max(self.ranges[name][1], 0.0)
        scale = np.float32((high - low) / 255 or 1.0)
        zero_point = int(np.clip(np.rint(-128 - low / scale), -128, 127))
        return self.tensor(name, shape, schema.TensorType.INT8, quantized=(scale, zero_point))

    def constants(self, name: str, weights: np.ndarray, bias: np.ndarray, source: int) -> tuple[int, int]:
        """Add weights, output channels first, and bias for an operator that reads the tensor `source`."""
        if self.ranges is None:
            number = self.tensor(f"{name}_weights", weights.shape, schema.TensorType.FLOAT32, weights)
            return number, self.tensor(f"{name}_bias", bias.shape, schema.TensorType.FLOAT32, bias)
        integers, scales = int8_weights(weights, axis=0)
        factors = scales.ravel() * self.tensors[source].quantization.scale[0]
        zeros = np.zeros(len(factors), np.int64)
        number = self.tensor(
            f"{name}_weights", weights.shape, schema.TensorType.INT8, integers, quantized=(scales.ravel(), zeros)
        )
        rounded = np.rint(bias / factors).astype(np.int32)
        return number, self.tensor(
            f"{name}_bias", bias.shape, schema.TensorType.INT32, rounded, quantized=(factors, zeros)
        )

    def operator(self, code: str, inputs: list[int], output: int, options_type: int = 0, options=None) -> None:
        if code not in self.codes:
            self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index(code)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        self.operators.append(operator)

    def pack(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = VERSION, [graph], self.buffers
        model.operatorCodes = []
        for name in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
            code.version = OPERATOR_VERSIONS[name]
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())


class Converter:
    """Turns the nodes of an ONNX graph, one after the other, into LiteRT operators."""

    def __init__(self, model: onnx.ModelProto, ranges: dict[str, tuple[float, float]] | None) -> None:
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.graph = model.graph
        self.writer = Writer(ranges)
        self.values: dict[str, Value] = {}

    def convert(self) -> bytes:
        """Return the LiteRT file. Raises NoCounterpart with a sentence if a node has no counterpart."""
        writer, graph = self.writer, self.graph
        [network_input], [network_output] = graph.input, graph.output
        batch, channels, height, width = (size.dim_value for size in network_input.type.tensor_type.shape.dim)
        if channels != 1:
            raise NoCounterpart(f"input {network_input.name!r} has {channels} channels, expected one")
        outside = writer.tensor("input", (batch, 1, height, width), schema.TensorType.FLOAT32)
        rows = (batch, height, width, 1)
        shape = writer.tensor("shape", (4,), schema.TensorType.INT32, np.array(rows, np.int32))
        reshaped = writer.tensor("channels_last", rows, schema.TensorType.FLOAT32)
        writer.operator("RESHAPE", [outside, shape], reshaped)
        entry = reshaped
        if writer.ranges is not None:
            entry = writer.activation(network_input.name, rows)
            writer.operator("QUANTIZE", [reshaped], entry)
        self.values[network_input.name] = Value(entry, rows)
        nodes = list(graph.node)
        while nodes:
            node = nodes.pop(0)
            # A ReLU right behind a convolution or product becomes part of it.
            follower = nodes[0] if nodes else None
            relu = follower is not None and follower.op_type == "Relu" and follower.input[0] == node.output[0]
            if node.op_type in ("Conv", "MatMul") and relu:
                nodes.pop(0)
            self._node(node, follower.output[0] if relu and node.op_type in ("Conv", "MatMul") else None)
        last = self.values[network_output.name].tensor
        if writer.ranges is not None:
            logits = writer.tensor("logits", self.values[network_output.name].shape, schema.TensorType.FLOAT32)
            writer.operator("DEQUANTIZE", [last], logits)
            last = logits
        return writer.pack([outside], [last])

    def _node(self, node: onnx.NodeProto, relu_output: str | None) -> None:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if any(attributes.get("pads", ())) or attributes.get("group", 1) != 1:
            raise NoCounterpart(f"node {node.name!r}: padding and groups have no counterpart here")
        source = self.values.get(node.input[0]) if node.input else None
        method = getattr(self, f"_{node.op_type}", None)
        if source is None or method is None:
            raise NoCounterpart(f"node {node.name!r}: operator {node.op_type} has no counterpart here")
        method(node, source, attributes, relu_output)

    def _Conv(self, node: onnx.NodeProto, source: Value, attributes: dict, relu_output: str | None) -> None:
        weights = self.weights[node.input[1]].transpose(0, 2, 3, 1)
        bias = self.weights[node.input[2]] if len(node.input) > 2 else np.zeros(len(weights), np.float32)
        options = schema.Conv2DOptionsT()
        options.padding = schema.Padding.VALID
        options.strideH, options.strideW = attributes.get("strides", (1, 1))
        options.dilationHFactor, options.dilationWFactor = attributes.get("dilations", (1, 1))
        options.fusedActivationFunction = self._activation(relu_output)
        batch, height, width, _ = source.shape
        _, kernel_height, kernel_width, _ = weights.shape
        rows = (height - (kernel_height - 1) * options.dilationHFactor - 1) // options.strideH + 1
        columns = (width - (kernel_width - 1) * options.dilationWFactor - 1) // options.strideW + 1
        shape = (batch, rows, columns, len(weights))
        name = relu_output or node.output[0]
        constants = self.writer.constants(name, weights, bias, source.tensor)
        output = self.writer.activation(name, shape)
        inputs = [source.tensor, *constants]
        self.writer.operator("CONV_2D", inputs, output, schema.BuiltinOptions.Conv2DOptions, options)
        self.values[name] = Value(output, shape)

    def _MatMul(self, node: onnx.NodeProto, source: Value, attributes: dict, relu_output: str | None) -> None:
        weights = self.weights[node.input[1]]
        if source.order is not None:
            weights = weights[source.order]
        name = relu_output or node.output[0]
        outputs = weights.shape[1]
        constants = self.writer.constants(
            name, np.ascontiguousarray(weights.T), np.zeros(outputs, np.float32), source.tensor
        )
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = self._activation(relu_output)
        shape = (source.shape[0], outputs)
        output = self.writer.activation(name, shape)
        inputs = [source.tensor, *constants]
        self.writer.operator("FULLY_CONNECTED", inputs, output, schema.BuiltinOptions.FullyConnectedOptions, options)
        self.values[name] = Value(output, shape)

    def _MaxPool(self, node: onnx.NodeProto, source: Value, attributes: dict, relu_output: str | None) -> None:
        options = schema.Pool2DOptionsT()
        options.padding = schema.Padding.VALID
        options.filterHeight, options.filterWidth = attributes["kernel_shape"]
        options.strideH, options.strideW = attributes.get("strides", (1, 1))
        batch, height, width, channels = source.shape
        rows = (height - options.filterHeight) // options.strideH + 1
        columns = (width - options.filterWidth) // options.strideW + 1
        shape = (batch, rows, columns, channels)
        output = self.writer.activation(node.output[0], shape, like=source.tensor)
        self.writer.operator("MAX_POOL_2D", [source.tensor], output, schema.BuiltinOptions.Pool2DOptions, options)
        self.values[node.output[0]] = Value(output, shape)

    def _Flatten(self, node: onnx.NodeProto, source: Value, attributes: dict, relu_output: str | None) -> None:
        batch, height, width, channels = source.shape
        shape = (batch, height * width * channels)
        target = self.writer.tensor(f"{node.output[0]}_shape", (2,), schema.TensorType.INT32, np.array(shape, np.int32))
        output = self.writer.activation(node.output[0], shape, like=source.tensor)
        self.writer.operator("RESHAPE", [source.tensor, target], output)
        order = np.arange(channels * height * width).reshape(channels, height, width).transpose(1, 2, 0).ravel()
        self.values[node.output[0]] = Value(output, shape, order)

    @staticmethod
    def _activation(relu_output: str | None) -> int:
        kind = schema.ActivationFunctionType
        return kind.NONE if relu_output is None else kind.RELU


def convert(model_path: Path, out: Path, calibration: Path | None = None) -> None:
    """Write `model_path` as a LiteRT file, INT8 if there is a calibration file.

    Raises:
        InputError: the model cannot be read, or holds an operator that has no counterpart here.
    """
    model = load_model(model_path)
    ranges = None
    if calibration is not None:
        names = [model.graph.input[0].name, *(node.output[0] for node in model.graph.node)]
        ranges = activation_ranges(model, names, load_calibration(calibration))
    try:
        content = Converter(model, ranges).convert()
    except NoCounterpart as error:
        raise InputError(f"{model_path}: {error}") from error
    with atomic_path(out) as partial:
        partial.write_bytes(content)

"""Write an ONNX network as an FP32 LiteRT (TensorFlow Lite) file, without TensorFlow.

LiteRT wants channels last. The input has one channel, so its values stay in place; convolutions get their weights
transposed; the matrix product behind a flatten gets its rows in the new order. No transpose is left at run time.
"""

from dataclasses import dataclass, field
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

from sparsemark.files import InputError, atomic_path
from sparsemark.models.onnx_model import load_model

#: LiteRT's file identifier and schema version.
IDENTIFIER, VERSION = b"TFL3", 3
#: What a caller, such as LiteRT's quantiser, calls the one function of the file.
SIGNATURE = "serving_default"


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

    tensors: list = field(default_factory=list)
    buffers: list = field(default_factory=lambda: [schema.BufferT()])
    codes: list[str] = field(default_factory=list)
    operators: list = field(default_factory=list)

    def tensor(self, name: str, shape: tuple) -> int:
        """Add a float32 activation and return its number."""
        return self._add(name, shape, schema.TensorType.FLOAT32, 0)

    def constant(self, name: str, data: np.ndarray) -> int:
        """Add a tensor that holds `data`, float32 or int32, and return its number."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.buffers.append(buffer)
        kind = {np.float32: schema.TensorType.FLOAT32, np.int32: schema.TensorType.INT32}[data.dtype.type]
        return self._add(name, data.shape, kind, len(self.buffers) - 1)

    def _add(self, name: str, shape: tuple, kind: int, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), list(shape), kind, buffer
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(self, code: str, inputs: list[int], output: int, options_type: int = 0, options=None) -> None:
        if code not in self.codes:
            self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index(code)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        self.operators.append(operator)

    def pack(self, entry: int, exit: int) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = [entry], [exit]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
        signature.inputs, signature.outputs = [self._named(entry)], [self._named(exit)]
        model = schema.ModelT()
        model.signatureDefs = [signature]
        model.version, model.subgraphs, model.buffers = VERSION, [graph], self.buffers
        model.operatorCodes = []
        for name in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
            code.version = 1
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def _named(self, number: int) -> schema.TensorMapT:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = self.tensors[number].name, number
        return entry


class Converter:
    """Turns the nodes of an ONNX graph, one after the other, into LiteRT operators."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.graph = model.graph
        self.writer = Writer()
        self.values: dict[str, Value] = {}

    def convert(self) -> bytes:
        """Return the LiteRT file. Raises NoCounterpart with a sentence if a node has no counterpart."""
        writer, graph = self.writer, self.graph
        [network_input], [network_output] = graph.input, graph.output
        batch, channels, height, width = (size.dim_value for size in network_input.type.tensor_type.shape.dim)
        if channels != 1:
            raise NoCounterpart(f"input {network_input.name!r} has {channels} channels, expected one")
        outside = writer.tensor(network_input.name, (batch, 1, height, width))
        rows = (batch, height, width, 1)
        entry = writer.tensor("channels_last", rows)
        writer.operator("RESHAPE", [outside, writer.constant("shape", np.array(rows, np.int32))], entry)
        self.values[network_input.name] = Value(entry, rows)
        # Constants that are no weights belong to operators without a counterpart, which the error should name.
        nodes = [node for node in graph.node if node.op_type != "Constant"]
        while nodes:
            node = nodes.pop(0)
            # A ReLU right behind a convolution or product becomes part of it.
            follower = nodes[0] if nodes else None
            relu = follower is not None and follower.op_type == "Relu" and follower.input[0] == node.output[0]
            if node.op_type in ("Conv", "MatMul") and relu:
                nodes.pop(0)
            self._node(node, follower.output[0] if relu and node.op_type in ("Conv", "MatMul") else None)
        return writer.pack(outside, self.values[network_output.name].tensor)

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
        constants = self._constants(name, weights, bias)
        output = self.writer.tensor(name, shape)
        inputs = [source.tensor, *constants]
        self.writer.operator("CONV_2D", inputs, output, schema.BuiltinOptions.Conv2DOptions, options)
        self.values[name] = Value(output, shape)

    def _MatMul(self, node: onnx.NodeProto, source: Value, attributes: dict, relu_output: str | None) -> None:
        weights = self.weights[node.input[1]]
        if source.order is not None:
            weights = weights[source.order]
        name = relu_output or node.output[0]
        outputs = weights.shape[1]
        constants = self._constants(name, weights.T, np.zeros(outputs, np.float32))
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = self._activation(relu_output)
        shape = (source.shape[0], outputs)
        output = self.writer.tensor(name, shape)
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
        output = self.writer.tensor(node.output[0], shape)
        self.writer.operator("MAX_POOL_2D", [source.tensor], output, schema.BuiltinOptions.Pool2DOptions, options)
        self.values[node.output[0]] = Value(output, shape)

    def _Flatten(self, node: onnx.NodeProto, source: Value, attributes: dict, relu_output: str | None) -> None:
        batch, height, width, channels = source.shape
        shape = (batch, height * width * channels)
        target = self.writer.constant(f"{node.output[0]}_shape", np.array(shape, np.int32))
        output = self.writer.tensor(node.output[0], shape)
        self.writer.operator("RESHAPE", [source.tensor, target], output)
        order = np.arange(channels * height * width).reshape(channels, height, width).transpose(1, 2, 0).ravel()
        self.values[node.output[0]] = Value(output, shape, order)

    def _constants(self, name: str, weights: np.ndarray, bias: np.ndarray) -> tuple[int, int]:
        """Add weights, output channels first, and bias."""
        return self.writer.constant(f"{name}_weights", weights), self.writer.constant(f"{name}_bias", bias)

    @staticmethod
    def _activation(relu_output: str | None) -> int:
        kind = schema.ActivationFunctionType
        return kind.NONE if relu_output is None else kind.RELU


def convert(model_path: Path, out: Path) -> None:
    """Write `model_path` as an FP32 LiteRT file.

    Raises:
        InputError: the model cannot be read, or holds an operator that has no counterpart here.
    """
    try:
        content = Converter(load_model(model_path)).convert()
    except NoCounterpart as error:
        raise InputError(f"{model_path}: {error}") from error
    with atomic_path(out) as partial:
        partial.write_bytes(content)

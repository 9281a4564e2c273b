"""The engine's own reading of a network: ONNX's nodes, some of them understood, and the shape of each activation."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dualsparse.onnx_file import OnnxFile


@dataclass(eq=False)
class Node:
    """One operator. What it needs beside its activations (weights, bias, window) is in `attributes`.

    Operators that layers are made of have names of their own: Conv, Linear, Affine, Relu, MaxPool, View, FakeQuantize
    (and, once recognised, KWinners and ColumnGate). All others are called onnx.X, X being ONNX's name: nothing is known
    of them but what they read.
    """

    name: str
    op: str
    inputs: list[str]  # activations only
    outputs: list[str]
    proto: onnx.NodeProto  # as the file has it; of a FakeQuantize its DequantizeLinear
    attributes: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None  # of the first output; None if it isn't float32 or is known at run time only

    @property
    def output(self) -> str:
        return self.outputs[0]


@dataclass
class Graph:
    """A network; `nodes` are in the order of the data flow, constants and what is computed from them left out.

    `types` and `constants` know every tensor by the file's names. Several names may stand for one activation:
    `resolve` gives the one that nodes use.
    """

    model: onnx.ModelProto  # sizes of the inputs filled in; the nodes that run are taken from it
    file: OnnxFile
    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    types: dict[str, onnx.TypeProto]
    constants: dict[str, np.ndarray]
    #: Constants that are known only because the inputs' shapes are.
    shape_constants: set[str]
    aliases: dict[str, str]
    _makers: dict[str, Node] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        """Append a node."""
        self.nodes.append(node)
        self._makers.update(dict.fromkeys(node.outputs, node))

    def resolve(self, name: str) -> str:
        """Return the activation that `name` stands for."""
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Return the shape of a float32 activation; None if it is of another type, or known at run time only."""
        return static_shape(self.types.get(tensor), onnx.TensorProto.FLOAT)

    def is_bool(self, tensor: str) -> bool:
        return self.types[tensor].tensor_type.elem_type == onnx.TensorProto.BOOL

    def is_output(self, tensor: str) -> bool:
        return any(self.resolve(name) == tensor for name in self.outputs)

    def producer(self, tensor: str) -> Node | None:
        """Return the node that makes `tensor`; None for an input."""
        return self._makers.get(tensor)

    def sole_consumer(self, tensor: str) -> Node | None:
        """Return the only reader of `tensor`; None if there are several or if `tensor` is an output of the graph."""
        consumers = [node for node in self.nodes if tensor in node.inputs]
        if self.is_output(tensor) or len(consumers) != 1 or consumers[0].inputs.count(tensor) != 1:
            return None
        return consumers[0]

    def bypass(self, node: Node) -> None:
        """Have those that read the output of a node of one input read its input."""
        self.nodes.remove(node)
        self.aliases[node.output] = node.inputs[0]
        for other in self.nodes:
            other.inputs = [self.resolve(name) for name in other.inputs]

    def origin(self, tensor: str) -> str:
        """Return the tensor behind reshapes."""
        node = self.producer(tensor)
        return self.origin(node.inputs[0]) if node is not None and node.op == "View" else tensor

    def drop_dead_nodes(self) -> None:
        """Remove nodes whose outputs nobody reads."""
        needed, kept = {self.resolve(name) for name in self.outputs}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]

    def evaluator(self, nodes: list[Node], inputs: list[str], output: str) -> ReferenceEvaluator:
        """Return what computes `output` from `inputs` by running `nodes` in ONNX's own reference.

        A FakeQuantize passes its input on: what is asked here is what a network was trained to compute.
        """
        protos, constants = [], {}
        for node in nodes:
            proto = onnx.NodeProto()
            proto.CopyFrom(node.proto)
            if node.op == "FakeQuantize":
                proto = helper.make_node("Identity", node.inputs, node.outputs)
            for i, name in enumerate(proto.input):
                proto.input[i] = self.resolve(name)
                if name in self.constants:
                    constants[name] = numpy_helper.from_array(self.constants[name], name)
            protos.append(proto)
        graph = helper.make_graph(
            protos,
            "part",
            [onnx.ValueInfoProto(name=name, type=self.types[name]) for name in inputs],
            [onnx.ValueInfoProto(name=output)],
            list(constants.values()),
        )
        return ReferenceEvaluator(graph, opsets={o.domain: o.version for o in self.model.opset_import})


def static_shape(type_: onnx.TypeProto | None, element: int) -> tuple[int, ...] | None:
    """Return the shape of a tensor of the type `element` whose sizes are all known and positive, else None."""
    if type_ is None or type_.tensor_type.elem_type != element or not type_.tensor_type.HasField("shape"):
        return None
    sizes = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in type_.tensor_type.shape.dim)
    return sizes if all(size > 0 for size in sizes) else None


def samples_of(layer: Node) -> int:
    """Return how many samples a Conv or Linear node works on: all rows of a matrix product, whatever axes they have."""
    return layer.shape[0] if layer.op == "Conv" else prod(layer.shape[:-1])

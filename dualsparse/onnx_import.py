"""Read an ONNX model (float32, or quantised) into a `Graph`.

Shapes come from ONNX's own inference, constants from its reference. What layers can be made of is brought to one form
here; whatever isn't, for any reason, stays what it is, and ONNX Runtime will run it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper, shape_inference

from dualsparse.errors import InvalidModelError, UnsupportedModelError
from dualsparse.graph import Graph, Node, static_shape
from dualsparse.integer_operators import as_quantised_pairs
from dualsparse.onnx_file import OnnxFile, Shapes, first_line, load, with_sizes
from dualsparse.operators import Grid, Window
from dualsparse.simplify import simplify

#: Operator-set versions of the default domain in which the operators understood here mean the same.
OPSETS = range(7, 27)
#: The largest array, in elements: a broken file must not exhaust the memory.
LARGEST = 1 << 31
#: The largest constant that is computed here, in elements.
LARGEST_CONSTANT = 1 << 26
#: Constants up to this many elements take part in shape inference.
LARGEST_SHAPE = 1024
#: Not to be computed once and for all, though they may read nothing but constants.
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
RANGES = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127)}
#: What constants are folded in: types that NumPy has, too.
FOLDED = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.INT8, TensorProto.UINT8)
FOLDED += (TensorProto.BOOL, TensorProto.DOUBLE)


@dataclass(frozen=True)
class QuantizedWeight:
    """The integers behind a dequantised constant: real = values * scale, per slice along `axis` or as a whole."""

    values: np.ndarray  # int8
    scale: np.ndarray  # float32, [1] or [size of axis]
    axis: int

    def transposed(self, permutation: Sequence[int]) -> "QuantizedWeight":
        """Return the same weight with its axes permuted as by `np.transpose`."""
        return QuantizedWeight(self.values.transpose(permutation), self.scale, list(permutation).index(self.axis))


@dataclass(frozen=True)
class _Quantized:
    """An activation between its QuantizeLinear and its DequantizeLinear."""

    source: str
    grid: Grid
    node: Node


class _NotOurs(Exception):
    """A node is nothing that layers are made of."""


def import_onnx(
    source: Path | str | bytes | OnnxFile, batch_size: int | None = None, shapes: Shapes | None = None
) -> Graph:
    """Read the ONNX model `source`: a file, or its bytes.

    Args:
        batch_size: the first size of the inputs that leave it open; None stands for 1.
        shapes: of inputs, by name, where the file leaves more open.

    Raises:
        InvalidModelError: not an ONNX model, or a broken one.
        UnsupportedModelError: an array in it is too large.
        InvalidInputError: a size contradicts the file, or is missing.
        OSError: the file cannot be read.
    """
    file = source if isinstance(source, OnnxFile) else load(source)
    model = with_sizes(file, batch_size, shapes or {})
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    as_quantised_pairs(model)
    graph = _Importer(file, model, opset).run()
    simplify(graph)
    return graph


class _Importer:
    """Reads one model, node after node, in the order of the file (ONNX guarantees that it is topological)."""

    def __init__(self, file: OnnxFile, model: onnx.ModelProto, opset: int) -> None:
        self.opset = opset
        self.weights: dict[str, QuantizedWeight] = {}
        self.quantized: dict[str, _Quantized] = {}
        graph = model.graph
        self.graph = Graph(
            model=model,
            file=file,
            inputs=[value.name for value in file.inputs],
            outputs=[value.name for value in graph.output],
            nodes=[],
            types={value.name: value.type for value in (*graph.value_info, *graph.output, *graph.input)},
            constants={},
            shape_constants=set(),
            aliases={},
        )
        self.constants, self.types = self.graph.constants, self.graph.types

    def run(self) -> Graph:
        model = self.graph.model.graph
        for tensor in model.initializer:
            try:
                self._add_constant(tensor.name, numpy_helper.to_array(tensor))
            except (LookupError, TypeError, ValueError) as error:
                name = self.graph.file.name
                raise InvalidModelError(
                    f"{name}: the constant {tensor.name!r} is broken ({first_line(error)})"
                ) from error
        for name in self.graph.inputs:
            self._check_size(name)
        for node in model.node:
            reads = [name for name in node_reads(node) if name and name not in self.constants]
            self._infer(node)
            if not self._fold(node, reads):
                self._append(node, reads)
        for name in model.output:
            self._reads_integers(name.name)
        return self.graph

    # --- constants and shapes -----------------------------------------------------------------------------------

    def _add_constant(self, name: str, array: np.ndarray) -> None:
        self.constants[name] = array
        self.types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    def _infer(self, node: onnx.NodeProto) -> None:
        """Note the types of a node's outputs, as far as ONNX knows them: it is asked about a model of this node."""
        reads = [name for name in node_reads(node) if name in self.types]
        small = [name for name in reads if name in self.constants and self.constants[name].size <= LARGEST_SHAPE]
        model = onnx.ModelProto(ir_version=self.graph.model.ir_version, opset_import=self.graph.model.opset_import)
        model.graph.name = "node"
        model.graph.node.append(node)
        model.graph.input.extend(onnx.ValueInfoProto(name=name, type=self.types[name]) for name in reads)
        model.graph.initializer.extend(numpy_helper.from_array(self.constants[name], name) for name in small)
        try:
            found = shape_inference.infer_shapes(model, data_prop=True).graph.value_info
        except (shape_inference.InferenceError, RuntimeError, ValueError):
            return
        self.types.update({value.name: value.type for value in found})
        for value in found:
            self._check_size(value.name)

    def _check_size(self, name: str) -> None:
        sizes = [dim.dim_value for dim in self.types[name].tensor_type.shape.dim]
        if prod(size for size in sizes if size > 0) > LARGEST:
            raise UnsupportedModelError(f"{self.graph.file.name}: the tensor {name!r} has more than {LARGEST} values")

    def _fold(self, node: onnx.NodeProto, reads: list[str]) -> bool:
        """Compute what depends on constants alone, or on shapes; tell whether this node does."""
        if node.op_type in ("Shape", "Size") and node.domain == "" and reads:
            type_ = self.types.get(reads[0])
            shape = static_shape(type_, type_.tensor_type.elem_type) if type_ else None
            if shape is None:
                return False
            attributes = attributes_of(node)
            part = shape[attributes.get("start", 0) : attributes.get("end")]
            self._add_constant(node.output[0], np.array(part if node.op_type == "Shape" else prod(shape), np.int64))
            self.graph.shape_constants.add(node.output[0])
            return True
        bodies = any(attribute.HasField("g") for attribute in node.attribute)
        if reads or bodies or node.op_type in RANDOM or node.domain not in ("", "ai.onnx"):
            return False
        for type_ in map(self.types.get, node.output):
            element = type_.tensor_type.elem_type if type_ is not None else None
            shape = static_shape(type_, element)
            if element not in FOLDED or shape is None or prod(shape) > LARGEST_CONSTANT:
                return False
        try:
            with np.errstate(all="ignore"):
                if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                    self._add_constant(node.output[0], self._quantised_constant(node))
                else:
                    part = Node(node.name, node.op_type, [], list(node.output), node)
                    for name in node.output:
                        [array] = self.graph.evaluator([part], [], name).run([name], {})
                        self._add_constant(name, np.asarray(array))
        except Exception:  # ONNX's reference raises whatever NumPy does; the node is left to ONNX Runtime
            return False
        if any(name in self.graph.shape_constants for name in node.input):
            self.graph.shape_constants.update(node.output)
        if node.op_type == "Transpose" and node.input[0] in self.weights:
            weight = self.weights[node.input[0]]
            permutation = attributes_of(node).get("perm") or list(range(weight.values.ndim))[::-1]
            self.weights[node.output[0]] = weight.transposed(permutation)
        return True

    def _quantised_constant(self, node: onnx.NodeProto) -> np.ndarray:
        """Quantise or dequantise a constant, which ONNX's reference can't in early versions.

        The integers behind a weight are remembered, moved so that their zero point is 0, if int8 holds them.
        """
        values, scale = self.constants[node.input[0]], self.constants[node.input[1]]
        made = helper.tensor_dtype_to_np_dtype(self.types[node.output[0]].tensor_type.elem_type)
        given = len(node.input) > 2 and node.input[2]
        zero_point = self.constants[node.input[2]] if given else np.zeros_like(scale, np.int64)
        attributes = attributes_of(node)
        if attributes.get("block_size", 0) or scale.ndim > 1 or scale.dtype != np.float32 or not (scale > 0).all():
            raise _NotOurs
        axis = attributes.get("axis", 1) % max(values.ndim, 1) if scale.size > 1 else 0
        shape = [-1 if i == axis and scale.size > 1 else 1 for i in range(values.ndim)]
        factor, offset = scale.reshape(shape), zero_point.astype(np.int64).reshape(shape)
        if node.op_type == "QuantizeLinear":
            limits = np.iinfo(made)
            return np.clip(np.rint(values / factor) + offset, limits.min, limits.max).astype(made)
        moved = values.astype(np.int64) - offset
        if values.dtype in (np.int8, np.uint8) and moved.min() >= -128 and moved.max() <= 127:
            self.weights[node.output[0]] = QuantizedWeight(moved.astype(np.int8), scale.reshape(-1), axis)
        return moved.astype(np.float32) * factor

    # --- nodes --------------------------------------------------------------------------------------------------

    def _append(self, node: onnx.NodeProto, reads: list[str]) -> None:
        """Add a node that reads activations: in our form, if it has one."""
        # Translators are named after their operators, which all begin with a capital.
        known = node.domain in ("", "ai.onnx") and self.opset in OPSETS and node.op_type[:1].isupper()
        translate = getattr(self, f"_{node.op_type}", None) if known else None
        if translate is not None:
            try:
                with np.errstate(all="ignore"):
                    translate(node, attributes_of(node))
                return
            except (_NotOurs, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                pass  # also what is broken is left to ONNX Runtime, which says why
        for name in reads:
            self._reads_integers(name)
        inputs = [self.graph.resolve(name) for name in reads]
        outputs = [name for name in node.output if name]
        shape = self.graph.shape(outputs[0]) if outputs else None
        self.graph.add(Node(node.name or node.op_type, f"onnx.{node.op_type}", inputs, outputs, node, {}, shape))

    def _reads_integers(self, name: str) -> None:
        """Add the QuantizeLinear that made `name`, because somebody reads it other than to dequantise it."""
        pending = self.quantized.get(name)
        if pending is not None and pending.node not in self.graph.nodes:
            self.graph.add(pending.node)

    def _emit(self, node: onnx.NodeProto, op: str, inputs: list[str], **attributes: object) -> None:
        shape = self.graph.shape(node.output[0])
        if shape is None:
            raise _NotOurs
        self.graph.add(Node(node.name or node.output[0], op, inputs, [node.output[0]], node, attributes, shape))

    def _activation(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Return the name and the shape of a float32 activation of a known shape."""
        shape = self.graph.shape(name)
        if name in self.constants or shape is None or not shape:
            raise _NotOurs
        return self.graph.resolve(name), shape

    def _constant(self, name: str, dtype: type = np.float32) -> np.ndarray:
        array = self.constants.get(name)
        if array is None or array.dtype != dtype or not np.isfinite(array).all():
            raise _NotOurs
        return array

    def _view(self, node: onnx.NodeProto, attributes: dict) -> None:
        """A reshape to whatever shape ONNX infers; one that changes nothing is another name only."""
        name, shape = self._activation(node.input[0])
        if node.op_type == "Dropout" and (self.opset < 12 or len(node.input) > 2 or "is_test" in attributes):
            # Whether it drops is an attribute of old versions, and an input of later ones.
            trains = len(node.input) > 2 and node.input[2] and self._constant(node.input[2], np.bool_).any()
            if trains or "is_test" in attributes:
                raise _NotOurs
        if len([output for output in node.output if output]) > 1:
            raise _NotOurs
        if self.graph.shape(node.output[0]) == shape:
            self.graph.aliases[node.output[0]] = name
        else:
            self._emit(node, "View", [name])

    # A cast from float32 to float32 is one, too.
    _Reshape = _Flatten = _Squeeze = _Unsqueeze = _Identity = _Dropout = _Cast = _view

    def _window(self, kernel: Sequence[int], size: tuple[int, ...], attributes: dict) -> Window:
        """Return the window of a convolution or pool with `kernel` over the spatial axes `size`."""
        rank = len(kernel)
        stride = list(attributes.get("strides") or [1] * rank)
        dilation = list(attributes.get("dilations") or [1] * rank)
        padding = list(attributes.get("pads") or [0] * 2 * rank)
        if rank not in (1, 2) or (len(size), len(stride), len(dilation), len(padding)) != (rank, rank, rank, 2 * rank):
            raise _NotOurs
        auto_pad = attributes.get("auto_pad", b"NOTSET")
        if auto_pad in (b"SAME_UPPER", b"SAME_LOWER"):
            for i in range(rank):
                outputs = -(-size[i] // stride[i])
                total = max((outputs - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - size[i], 0)
                smaller, larger = total // 2, total - total // 2
                padding[i], padding[i + rank] = (smaller, larger) if auto_pad == b"SAME_UPPER" else (larger, smaller)
        elif auto_pad == b"VALID":
            padding = [0] * 2 * rank
        if min([*kernel, *stride, *dilation]) < 1 or min(padding) < 0 or max([*padding, *dilation]) > 1 << 12:
            raise _NotOurs
        if rank == 1:
            kernel, stride, dilation = [1, *kernel], [1, *stride], [1, *dilation]
            padding = [0, padding[0], 0, padding[1]]
        ceil_mode = bool(attributes.get("ceil_mode", 0))
        return Window(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), ceil_mode)

    def _Conv(self, node: onnx.NodeProto, attributes: dict) -> None:
        name, shape = self._activation(node.input[0])
        weight, groups = self._constant(node.input[1]), attributes.get("group", 1)
        kernel = weight.shape[2:]
        window = self._window(kernel, shape[2:], attributes)
        size = window.output_size(shape[2:] if len(kernel) == 2 else (1, *shape[2:]))
        out = (shape[0], weight.shape[0], *size[-len(kernel) :])
        grouped = groups >= 1 and weight.shape[0] % groups == 0 and weight.shape[1] * groups == shape[1]
        if not grouped or self.graph.shape(node.output[0]) != out or min(size) < 1:
            raise _NotOurs
        if tuple(attributes.get("kernel_shape", kernel)) != kernel:
            raise _NotOurs
        whole = (*weight.shape[:2], *window.kernel)
        self._emit(
            node,
            "Conv",
            [name],
            weight=weight.reshape(whole),
            window=window,
            groups=groups,
            bias=self._bias(node, weight.shape[0]),
            quantized=_integers(self.weights.get(node.input[1]), whole),
        )

    def _bias(self, node: onnx.NodeProto, outputs: int) -> np.ndarray:
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(outputs, np.float32)
        bias = self._constant(node.input[2])
        if bias.size not in (1, outputs) or bias.shape[-1:] not in ((), (bias.size,)):
            raise _NotOurs
        return np.broadcast_to(bias.reshape(-1), outputs).astype(np.float32)

    def _Gemm(self, node: onnx.NodeProto, attributes: dict) -> None:
        weight, quantized = self._constant(node.input[1]), self.weights.get(node.input[1])
        if not attributes.get("transB", 0):
            weight, quantized = weight.T, quantized and quantized.transposed((1, 0))
        alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
        if attributes.get("transA", 0) or not np.isfinite([alpha, beta]).all():
            raise _NotOurs
        if alpha != 1:
            weight, quantized = weight * np.float32(alpha), None
        self._linear(node, weight, quantized, self._bias(node, weight.shape[0]) * np.float32(beta))

    def _MatMul(self, node: onnx.NodeProto, attributes: dict) -> None:
        weight, quantized = self._constant(node.input[1]).T, self.weights.get(node.input[1])
        if weight.ndim != 2:
            raise _NotOurs
        bias = np.zeros(weight.shape[0], np.float32)
        self._linear(node, weight, quantized and quantized.transposed((1, 0)), bias)

    def _linear(
        self, node: onnx.NodeProto, weight: np.ndarray, quantized: QuantizedWeight | None, bias: np.ndarray
    ) -> None:
        name, shape = self._activation(node.input[0])
        if len(shape) < 2 or weight.ndim != 2 or self.graph.shape(node.output[0]) != (*shape[:-1], weight.shape[0]):
            raise _NotOurs
        integers = _integers(quantized, weight.shape)
        self._emit(node, "Linear", [name], weight=np.ascontiguousarray(weight), bias=bias, quantized=integers)

    def _BatchNormalization(self, node: onnx.NodeProto, attributes: dict) -> None:
        name, shape = self._activation(node.input[0])
        scale, bias, mean, variance = (self._constant(node.input[i]).astype(np.float64) for i in range(1, 5))
        spatial = attributes.get("spatial", 1) and all(v.shape == (shape[1],) for v in (scale, bias, mean, variance))
        if attributes.get("training_mode", 0) or not spatial or len([output for output in node.output if output]) > 1:
            raise _NotOurs
        factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        self._affine(node, name, factor, bias - mean * factor, 1)

    def _affine(self, node: onnx.NodeProto, name: str, scale: np.ndarray, shift: np.ndarray, axis: int | None) -> None:
        """Emit scale * x + shift, with values per channel of `axis`, or one of each if that is None."""
        scale, shift = scale.astype(np.float32), shift.astype(np.float32)
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise _NotOurs
        self._emit(node, "Affine", [name], scale=scale, shift=shift, axis=axis)

    def _arithmetic(self, node: onnx.NodeProto, attributes: dict) -> None:
        """A sum or product with a constant that has one number per channel."""
        position = 0 if node.input[0] in self.constants else 1
        constant = self._constant(node.input[position])
        name, shape = self._activation(node.input[1 - position])
        axes = [axis + len(shape) - constant.ndim for axis, size in enumerate(constant.shape) if size != 1]
        if constant.ndim > len(shape) or len(axes) > 1 or self.graph.shape(node.output[0]) != shape:
            raise _NotOurs
        values = constant.reshape(-1).astype(np.float64)
        ones = np.ones_like(values)
        if node.op_type == "Add":
            scale, shift = ones, values
        elif node.op_type == "Mul":
            scale, shift = values, 0 * ones
        else:
            scale, shift = (-ones, values) if position == 0 else (ones, -values)
        self._affine(node, name, scale, shift, axes[0] if axes else None)

    _Add = _Sub = _Mul = _arithmetic

    def _Relu(self, node: onnx.NodeProto, attributes: dict) -> None:
        self._emit(node, "Relu", [self._activation(node.input[0])[0]])

    def _pool(self, node: onnx.NodeProto, attributes: dict) -> None:
        """Pools that average are no part of layers, but of column gates."""
        name, shape = self._activation(node.input[0])
        if len([output for output in node.output if output]) > 1:
            raise _NotOurs
        self._emit(node, node.op_type, [name], window=self._window(attributes["kernel_shape"], shape[2:], attributes))

    _MaxPool = _AveragePool = _pool

    # --- quantisation -------------------------------------------------------------------------------------------

    def _grid(self, node: onnx.NodeProto, integers: str) -> Grid:
        """Return the grid that a node's scale and zero point describe for the 8-bit tensor `integers`."""
        scale = self._constant(node.input[1])
        given = len(node.input) > 2 and node.input[2]
        zero_point = self.constants[node.input[2]] if given else np.zeros((), np.int8)
        if scale.size != 1 or zero_point.size != 1 or scale.min() < np.finfo(np.float32).tiny:
            raise _NotOurs
        bounds = RANGES[self.types[integers].tensor_type.elem_type]
        return Grid(np.float32(scale.reshape(())), int(zero_point.reshape(())), *bounds)

    def _QuantizeLinear(self, node: onnx.NodeProto, attributes: dict) -> None:
        name, _ = self._activation(node.input[0])
        later = Node(node.name or node.output[0], "onnx.QuantizeLinear", [name], [node.output[0]], node)
        self.quantized[node.output[0]] = _Quantized(name, self._grid(node, node.output[0]), later)

    def _DequantizeLinear(self, node: onnx.NodeProto, attributes: dict) -> None:
        pending = self.quantized[node.input[0]]
        if self._grid(node, node.input[0]) != pending.grid:
            raise _NotOurs
        self._emit(node, "FakeQuantize", [pending.source], grid=pending.grid)


def _integers(quantized: QuantizedWeight | None, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return int8 values [O, ...] of `shape` and one scale per output, float32 [O]; None if that can't be said."""
    if quantized is None or (quantized.scale.size != 1 and quantized.axis != 0):
        return None
    scale = np.broadcast_to(quantized.scale, shape[0]).astype(np.float32)
    return np.ascontiguousarray(quantized.values.reshape(shape)), scale


def attributes_of(node: onnx.NodeProto) -> dict:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def node_reads(node: onnx.NodeProto) -> list[str]:
    """Return what a node reads, in its bodies too."""
    names = list(node.input)
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            made = {tensor.name for tensor in body.initializer} | {value.name for value in body.input}
            for inner in body.node:
                names += [name for name in node_reads(inner) if name not in made]
                made.update(inner.output)
            names += [value.name for value in body.output if value.name not in made]
    return list(dict.fromkeys(names))

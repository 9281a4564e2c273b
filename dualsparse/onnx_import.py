"""Read an ONNX file (float32, or quantised with QuantizeLinear / DequantizeLinear pairs) into a `Graph`.

Constants are computed here, weights become parts of their nodes, shape arithmetic disappears, and each operator is
brought to one form (`operators.OPERATORS`). Shapes come from running every node on one sample of zeros, so that there
is no second statement of an operator's shape rule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from dualsparse.errors import InvalidInputError, InvalidModelError, UnsupportedModelError
from dualsparse.graph import Graph, Node
from dualsparse.operators import OPERATORS, Grid, Window, as_images

#: Operator-set versions of the default domain whose semantics the translators follow.
OPSETS = range(13, 26)
#: The largest array of one sample, in elements: a broken file must not exhaust the memory.
LARGEST_SAMPLE = 1 << 26

INTEGER_RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}
CAST_TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_}


@dataclass(frozen=True)
class QuantizedWeight:
    """The integers behind a dequantised constant: real = values * scale, per slice along `axis` or as a whole."""

    values: np.ndarray  # int8
    scale: np.ndarray  # float32, [] or [size of axis]
    axis: int

    def transposed(self, permutation: Sequence[int]) -> "QuantizedWeight":
        """Return the same weight with its axes permuted as by `np.transpose`."""
        return QuantizedWeight(self.values.transpose(permutation), self.scale, list(permutation).index(self.axis))


@dataclass(frozen=True)
class _Quantized:
    """An activation between its QuantizeLinear and its DequantizeLinear."""

    source: str
    grid: Grid


def import_onnx(path: Path | str, batch_size: int | None = None) -> Graph:
    """Read the ONNX file `path`.

    Args:
        batch_size: the first size of the input; None takes it from the file (1 if the file leaves it open).

    Raises:
        InvalidModelError: not an ONNX model, or a broken one.
        UnsupportedModelError: something in it that this engine cannot run; names the node.
        InvalidInputError: `batch_size` contradicts the file.
        OSError: the file cannot be read.
    """
    return import_bytes(Path(path).read_bytes(), str(path), batch_size)


def import_bytes(content: bytes, source: str, batch_size: int | None = None) -> Graph:
    """Read an ONNX model from its bytes; `source` names it in messages. See `import_onnx`."""
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidModelError(f"{source}: not a valid ONNX model ({reason})") from error
    try:
        with np.errstate(all="ignore"):
            return _Importer(model, source, batch_size).run()
    except (UnsupportedModelError, InvalidInputError, InvalidModelError):
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        # Whatever else a broken file provokes in NumPy or onnx: the file is to blame, and the caller learns it.
        raise InvalidModelError(f"{source}: inconsistent ONNX model ({error})") from error


class _Importer:
    """Translates one model, node after node, in the order of the file (ONNX guarantees that it is topological)."""

    def __init__(self, model: onnx.ModelProto, source: str, batch_size: int | None) -> None:
        self.model = model
        self.source = source
        self.batch_size = batch_size
        self.constants: dict[str, np.ndarray] = {}
        self.weights: dict[str, QuantizedWeight] = {}
        self.quantized: dict[str, _Quantized] = {}
        self.aliases: dict[str, str] = {}
        #: Zeros of one sample, [1, *shape], per activation.
        self.samples: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []
        self.where = source

    # --- errors -------------------------------------------------------------------------------------------------

    def unsupported(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.where}: {what}")

    def invalid(self, what: str) -> InvalidModelError:
        return InvalidModelError(f"{self.where}: {what}")

    # --- the model ----------------------------------------------------------------------------------------------

    def run(self) -> Graph:
        graph = self.model.graph
        opset = next((o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if opset not in OPSETS:
            raise self.unsupported(f"opset {opset}, expected {OPSETS[0]} to {OPSETS[-1]}")
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
                raise self.unsupported(f"the constant {tensor.name!r} lies in another file")
            self.constants[tensor.name] = self._constant_array(numpy_helper.to_array(tensor))
        if graph.sparse_initializer:
            raise self.unsupported("constants stored as sparse tensors")
        inputs = [value for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise self.unsupported(
                f"{len(inputs)} inputs and {len(graph.output)} outputs, expected one input and one output"
            )
        self._declare_input(inputs[0])
        for position, node in enumerate(graph.node):
            self.where = f"{self.source}: node {node.name or f'number {position}'!r} ({node.op_type})"
            self._translate(node)
        self.where = self.source
        output = self.resolve(graph.output[0].name)
        if output not in self.samples:
            raise self.unsupported(f"the output {graph.output[0].name!r} does not depend on the input")
        if self.samples[output].dtype != np.float32:
            raise self.unsupported(f"the output {graph.output[0].name!r} is {self.samples[output].dtype}, not float32")
        shapes = {name: sample.shape[1:] for name, sample in self.samples.items()}
        self._check_declared_output(graph.output[0], shapes[output])
        result = Graph(inputs[0].name, output, self.nodes, shapes, self.batch_size)
        result.drop_dead_nodes()
        if not result.nodes:
            raise self.unsupported("nothing to compute: the output is the input")
        return result

    def _declare_input(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        if tensor.elem_type != onnx.TensorProto.FLOAT:
            raise self.unsupported(f"the input {value.name!r} is not float32")
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        if len(dims) < 2 or len(dims) > 4:
            raise self.unsupported(f"the input {value.name!r} has {len(dims)} axes, expected 2 to 4, the batch first")
        if None in dims[1:]:
            raise self.unsupported(f"the input {value.name!r} leaves a size other than the batch open")
        if dims[0] is not None and self.batch_size is not None and dims[0] != self.batch_size:
            raise InvalidInputError(
                f"{self.source}: made for a batch size of {dims[0]}, but {self.batch_size} was asked for"
            )
        if min(d for d in dims if d is not None) < 1:
            raise self.invalid(f"the input {value.name!r} has an empty axis")
        self.batch_size = self.batch_size or dims[0] or 1
        if np.prod(dims[1:], dtype=np.float64) > LARGEST_SAMPLE or self.batch_size > 1 << 20:
            raise self.unsupported(f"the input {value.name!r} is larger than {LARGEST_SAMPLE} values per sample")
        self.samples[value.name] = np.zeros((1, *dims[1:]), np.float32)

    def _check_declared_output(self, value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
        if not value.type.tensor_type.HasField("shape"):
            return
        declared = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        found = (self.batch_size, *shape)
        if len(declared) != len(found) or any(d not in (None, f) for d, f in zip(declared, found, strict=True)):
            raise self.invalid(f"the output {value.name!r} is declared as {declared} but computed as {list(found)}")

    def _constant_array(self, array: np.ndarray) -> np.ndarray:
        if array.size > LARGEST_SAMPLE:
            raise self.unsupported(f"a constant of {array.size} values")
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise self.invalid("a constant holds a value that is not finite")
        return array

    # --- values -------------------------------------------------------------------------------------------------

    def resolve(self, name: str) -> str:
        """Return the activation or constant that `name` stands for."""
        return self.aliases.get(name, name)

    def constant(self, name: str, what: str) -> np.ndarray:
        """Return a constant input, or say that `what` has to be one."""
        name = self.resolve(name)
        if name not in self.constants:
            raise self.unsupported(f"{what} is computed from the input, expected a constant")
        return self.constants[name]

    def activation(self, name: str) -> str:
        """Return the name of a float32 or bool activation that this node reads."""
        name = self.resolve(name)
        if name in self.quantized:
            raise self.unsupported("works on integers, expected a DequantizeLinear before it")
        if name not in self.samples:
            raise self.invalid(f"reads {name!r}, which nothing computes")
        return name

    def emit(self, node: onnx.NodeProto, op: str, inputs: list[str], output: str | None = None, **attributes) -> None:
        """Append a node and run it on zeros to learn its output's shape."""
        output = output or node.output[0]
        arrays = [self.samples[name] for name in inputs]
        sample = OPERATORS[op](arrays, attributes)
        if sample.shape[:1] != (1,) or sample.ndim < 2 or sample.size == 0 or sample.size > LARGEST_SAMPLE:
            raise self.unsupported(f"makes an output of the shape {list(sample.shape[1:])} per sample")
        if sample.dtype not in (np.float32, np.bool_):
            raise self.unsupported(f"computes {sample.dtype}, expected float32")
        self.samples[output] = np.zeros_like(sample)
        self.nodes.append(Node(node.name or output, op, inputs, output, attributes, sample.shape[1:]))

    def _translate(self, node: onnx.NodeProto) -> None:
        # Translators are named after their operators, which all begin with a capital.
        known = node.domain in ("", "ai.onnx") and node.op_type[:1].isupper()
        translator = getattr(self, f"_{node.op_type}", None) if known else None
        if translator is None and node.op_type not in FOLDABLE:
            raise self.unsupported("this operator is not supported")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs = [self.resolve(name) for name in node.input]
        while inputs and not inputs[-1]:
            inputs.pop()
        for name in inputs:
            if name and name not in self.constants and name not in self.samples and name not in self.quantized:
                raise self.invalid(f"reads {name!r}, which nothing computes before it")
        if any(output in self.samples or output in self.constants for output in node.output if output):
            raise self.invalid("computes a value that exists already")
        if inputs and all(not name or name in self.constants for name in inputs) and node.op_type in FOLDABLE:
            arrays = [self.constants.get(name) for name in inputs]
            self.constants[node.output[0]] = self._constant_array(
                np.asarray(FOLDABLE[node.op_type](arrays, attributes))
            )
            if node.op_type == "Transpose" and inputs[0] in self.weights:
                permutation = attributes.get("perm") or list(range(arrays[0].ndim))[::-1]
                self.weights[node.output[0]] = self.weights[inputs[0]].transposed(permutation)
            return
        if translator is None:
            raise self.unsupported("this operator is supported on constants only")
        translator(node, inputs, attributes)

    # --- constants, shapes and views ----------------------------------------------------------------------------

    def _Constant(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        if "value" in attributes:
            if attributes["value"].external_data:
                raise self.unsupported("its value lies in another file")
            value = numpy_helper.to_array(attributes["value"])
        else:
            kinds = {
                "value_float": np.float32,
                "value_floats": np.float32,
                "value_int": np.int64,
                "value_ints": np.int64,
            }
            name = next((name for name in kinds if name in attributes), None)
            if name is None:
                raise self.unsupported("a constant that is neither a tensor nor numbers")
            value = np.asarray(attributes[name], kinds[name])
        self.constants[node.output[0]] = self._constant_array(value)

    def _Identity(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        self.aliases[node.output[0]] = inputs[0]

    def _Dropout(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        if len(inputs) > 2 and self.constant(inputs[2], "training_mode").any():
            raise self.unsupported("dropout in training mode")
        self.aliases[node.output[0]] = inputs[0]

    def _Shape(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = inputs[0]
        shape = self.constants[name].shape if name in self.constants else self._full_shape(self.activation(name))
        self.constants[node.output[0]] = np.array(shape[attributes.get("start", 0) : attributes.get("end")], np.int64)

    def _full_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch_size, *self.samples[name].shape[1:])

    def _view(self, node: onnx.NodeProto, name: str, shape: Sequence[int]) -> None:
        """Emit a reshape to `shape`, the batch included."""
        if not shape or shape[0] != self.batch_size:
            raise self.unsupported(f"reshapes to {list(shape)}, which mixes the samples of a batch")
        if tuple(shape) == self._full_shape(name):
            self.aliases[node.output[0]] = name
            return
        self.emit(node, "View", [name], shape=tuple(int(size) for size in shape[1:]))

    def _Reshape(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self.activation(inputs[0])
        target = [int(size) for size in self.constant(inputs[1], "the shape").reshape(-1)]
        full = self._full_shape(name)
        if not attributes.get("allowzero", 0):
            target = [full[i] if size == 0 else size for i, size in enumerate(target)]
        if target.count(-1) > 1 or any(size < -1 or size == 0 for size in target):
            raise self.invalid(f"reshapes to {target}")
        total = int(np.prod(full))
        if -1 in target:
            rest = int(np.prod([size for size in target if size != -1]))
            if total % rest:
                raise self.invalid(f"cannot reshape {list(full)} to {target}")
            target[target.index(-1)] = total // rest
        if int(np.prod(target)) != total:
            raise self.invalid(f"cannot reshape {list(full)} to {target}")
        self._view(node, name, target)

    def _Flatten(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self.activation(inputs[0])
        full = self._full_shape(name)
        axis = self._axis(attributes.get("axis", 1), len(full) + 1)
        self._view(node, name, [int(np.prod(full[:axis])), int(np.prod(full[axis:]))])

    def _Squeeze(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self.activation(inputs[0])
        full = self._full_shape(name)
        if len(inputs) > 1:
            axes = [self._axis(int(a), len(full)) for a in self.constant(inputs[1], "axes").reshape(-1)]
        else:
            axes = [i for i, size in enumerate(full) if i and size == 1]
        if any(full[axis] != 1 for axis in axes):
            raise self.invalid(f"squeezes an axis of {list(full)} that is longer than 1")
        if 0 in axes:
            raise self.unsupported("removes the batch axis")
        self._view(node, name, [size for i, size in enumerate(full) if i not in axes])

    def _Unsqueeze(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self.activation(inputs[0])
        full = list(self._full_shape(name))
        axes = self.constant(inputs[1], "axes").reshape(-1)
        for axis in sorted(self._axis(int(a), len(full) + len(axes)) for a in axes):
            full.insert(axis, 1)
        self._view(node, name, full)

    def _Cast(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self.activation(inputs[0])
        dtype = CAST_TYPES.get(attributes["to"])
        if dtype not in (np.float32, np.bool_):
            raise self.unsupported("casts to a type other than float32 and bool")
        if self.samples[name].dtype == dtype:
            self.aliases[node.output[0]] = name
        else:
            self.emit(node, "Cast", [name], dtype=dtype)

    def _axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            raise self.invalid(f"axis {axis} of {rank} axes")
        return axis % rank

    def _sample_axis(self, axis: int, rank: int) -> int:
        """Return the axis, counted from 0, which must not be the batch."""
        axis = self._axis(axis, rank)
        if axis == 0:
            raise self.unsupported("works along the batch axis, which mixes samples")
        return axis

    # --- layers with weights ------------------------------------------------------------------------------------

    def _window(self, kernel: Sequence[int], size: tuple[int, ...], attributes: dict[str, Any]) -> Window:
        """Return the window of a convolution or pool with `kernel` over the spatial axes `size`."""
        rank = len(kernel)
        if rank not in (1, 2) or rank != len(size):
            raise self.unsupported(f"a window of {rank} axes over {len(size)}, expected 1 or 2 of both")
        stride = list(attributes.get("strides") or [1] * rank)
        dilation = list(attributes.get("dilations") or [1] * rank)
        padding = list(attributes.get("pads") or [0] * 2 * rank)
        if (len(stride), len(dilation), len(padding)) != (rank, rank, 2 * rank):
            raise self.invalid("strides, dilations or pads of a wrong length")
        if min([*kernel, *stride, *dilation]) < 1 or min(padding) < 0 or max([*kernel, *stride, *dilation]) > 1 << 16:
            raise self.invalid("a kernel, stride, dilation or padding that is out of range")
        auto_pad = attributes.get("auto_pad", b"NOTSET")
        if auto_pad in (b"SAME_UPPER", b"SAME_LOWER"):
            for i in range(rank):
                outputs = -(-size[i] // stride[i])
                total = max((outputs - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - size[i], 0)
                smaller, larger = total // 2, total - total // 2
                padding[i], padding[i + rank] = (smaller, larger) if auto_pad == b"SAME_UPPER" else (larger, smaller)
        elif auto_pad not in (b"NOTSET", b"VALID"):
            raise self.invalid(f"auto_pad {auto_pad!r}")
        elif auto_pad == b"VALID":
            padding = [0] * 2 * rank
        if max(padding) > 1 << 12:
            raise self.unsupported(f"padding of {max(padding)} values")
        if rank == 1:
            kernel, stride, dilation = [1, *kernel], [1, *stride], [1, *dilation]
            padding = [0, padding[0], 0, padding[1]]
            size = (1, *size)
        window = Window(
            tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), bool(attributes.get("ceil_mode", 0))
        )
        if min(window.output_size(size)) < 1:
            raise self.invalid(f"a window of {list(kernel)} that doesn't fit on an input of {list(size)}")
        return window

    def _image(self, name: str) -> np.ndarray:
        """Return the sample of a float32 activation [n, C, W] or [n, C, H, W]."""
        sample = self.samples[name]
        if sample.ndim not in (3, 4) or sample.dtype != np.float32:
            raise self.unsupported(f"an input of {sample.ndim} axes, expected 3 or 4 of float32")
        return sample

    def _weight(self, name: str, what: str) -> tuple[np.ndarray, QuantizedWeight | None]:
        weight = self.constant(name, what)
        if weight.dtype != np.float32:
            raise self.unsupported(f"{what} is {weight.dtype}, expected float32 or a DequantizeLinear before it")
        return weight, self.weights.get(name)

    def _bias(self, inputs: list[str], outputs: int) -> np.ndarray:
        bias = self._weight(inputs[2], "the bias")[0] if len(inputs) > 2 else np.zeros(outputs, np.float32)
        if bias.size not in (1, outputs):
            raise self.invalid(f"a bias of {bias.size} values for {outputs} outputs")
        return np.broadcast_to(bias.reshape(-1), outputs).astype(np.float32)

    def _Conv(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self.activation(inputs[0])
        sample = self._image(name)
        weight, quantized = self._weight(inputs[1], "the weight")
        groups = attributes.get("group", 1)
        kernel = list(weight.shape[2:])
        if list(attributes.get("kernel_shape", kernel)) != kernel:
            raise self.invalid(f"kernel_shape differs from the weight's {kernel}")
        if groups < 1 or weight.shape[0] % groups or weight.shape[1] * groups != sample.shape[1]:
            raise self.invalid(f"a weight of {list(weight.shape)} in {groups} groups on {sample.shape[1]} channels")
        window = self._window(kernel, sample.shape[2:], attributes)
        self._check_work(weight.size * int(np.prod(window.output_size(as_images(sample).shape[2:]))))
        self.emit(
            node,
            "Conv",
            [name],
            weight=weight.reshape(*weight.shape[:2], *window.kernel),
            window=window,
            groups=groups,
            bias=self._bias(inputs, weight.shape[0]),
            quantized=self._integers(quantized, (*weight.shape[:2], *window.kernel)),
        )

    def _check_work(self, macs: int) -> None:
        if macs > 1 << 36:
            raise self.unsupported(f"{macs} multiplications per sample")

    def _integers(self, quantized: QuantizedWeight | None, shape: Sequence[int]) -> tuple | None:
        """Return int8 values [O, ...] of `shape` and one scale per output, float32 [O]; None if that can't be said."""
        if quantized is None or quantized.values.dtype != np.int8:
            return None
        if quantized.scale.size != 1 and quantized.axis != 0:
            return None
        scale = np.broadcast_to(quantized.scale.reshape(-1), shape[0]).astype(np.float32)
        return np.ascontiguousarray(quantized.values.reshape(shape)), scale

    def _Gemm(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        if attributes.get("transA", 0):
            raise self.unsupported("transA = 1, which mixes the samples of a batch")
        weight, quantized = self._weight(inputs[1], "the weight")
        if weight.ndim != 2:
            raise self.invalid(f"a weight of {weight.ndim} axes")
        if not attributes.get("transB", 0):
            weight, quantized = weight.T, quantized and quantized.transposed((1, 0))
        alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
        if not np.isfinite([alpha, beta]).all():
            raise self.invalid("alpha or beta is not finite")
        if alpha != 1:
            weight, quantized = weight * np.float32(alpha), None
        bias = self._bias(inputs, weight.shape[0]) * np.float32(beta)
        self._linear(node, inputs[0], weight, quantized, bias)

    def _MatMul(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        matrix, quantized = self._weight(inputs[1], "the second factor")
        name = self.activation(inputs[0])
        if matrix.ndim != 2 or self.samples[name].shape[-1] != matrix.shape[0]:
            raise self.unsupported(
                f"a product of {list(self._full_shape(name))} with {list(matrix.shape)}, expected a matching matrix"
            )
        if self.samples[name].ndim == 2:
            weight = matrix.T
            bias = np.zeros(weight.shape[0], np.float32)
            self._linear(node, name, weight, quantized and quantized.transposed((1, 0)), bias)
        else:
            self._check_work(self.samples[name].size * matrix.shape[1])
            self.emit(node, "MatMul", [name], matrix=matrix)

    def _linear(
        self, node: onnx.NodeProto, name: str, weight: np.ndarray, quantized: QuantizedWeight | None, bias: np.ndarray
    ) -> None:
        name = self.activation(name)
        sample = self.samples[name]
        if sample.ndim != 2 or sample.shape[1] != weight.shape[1] or sample.dtype != np.float32:
            raise self.invalid(f"a weight for {weight.shape[1]} inputs on an input of {list(sample.shape[1:])}")
        self.emit(
            node,
            "Linear",
            [name],
            weight=np.ascontiguousarray(weight),
            bias=bias,
            quantized=self._integers(quantized, weight.shape),
        )

    def _BatchNormalization(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self.activation(inputs[0])
        if attributes.get("training_mode", 0) or len([output for output in node.output if output]) > 1:
            raise self.unsupported("batch normalisation in training mode")
        scale, bias, mean, variance = (self.constant(inputs[i], "a parameter").astype(np.float64) for i in range(1, 5))
        channels = self.samples[name].shape[1]
        if any(values.shape != (channels,) for values in (scale, bias, mean, variance)):
            raise self.invalid(f"parameters that aren't vectors of {channels} values")
        deviation = np.sqrt(variance + attributes.get("epsilon", 1e-5))
        if not np.isfinite(deviation).all() or deviation.min() <= 0:
            raise self.invalid("a variance that is not positive")
        factor = scale / deviation
        self._affine(node, name, factor, bias - mean * factor)

    def _affine(self, node: onnx.NodeProto, name: str, scale: np.ndarray, shift: np.ndarray) -> None:
        scale, shift = scale.astype(np.float32), shift.astype(np.float32)
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise self.invalid("a factor or summand that is not finite")
        self.emit(node, "Affine", [name], scale=scale, shift=shift)

    # --- activations, pools and arithmetic ----------------------------------------------------------------------

    def _float_activation(self, name: str) -> str:
        name = self.activation(name)
        if self.samples[name].dtype != np.float32:
            raise self.unsupported(f"works on {self.samples[name].dtype}, expected float32")
        return name

    def _Relu(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        self.emit(node, "Relu", [self._float_activation(inputs[0])])

    def _MaxPool(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        if len([output for output in node.output if output]) > 1:
            raise self.unsupported("its second output, the indices, is not available")
        name = self._float_activation(inputs[0])
        window = self._window(attributes["kernel_shape"], self._image(name).shape[2:], attributes)
        if any(window.padding[i] >= window.dilation[i % 2] * (window.kernel[i % 2] - 1) + 1 for i in range(4)):
            raise self.invalid("padding as wide as the window")
        self.emit(node, "MaxPool", [name], window=window)

    def _AveragePool(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self._float_activation(inputs[0])
        window = self._window(attributes["kernel_shape"], self._image(name).shape[2:], attributes)
        if any(window.padding[i] >= window.dilation[i % 2] * (window.kernel[i % 2] - 1) + 1 for i in range(4)):
            raise self.invalid("padding as wide as the window")
        self.emit(
            node, "AveragePool", [name], window=window, count_include_pad=bool(attributes.get("count_include_pad", 0))
        )

    def _GlobalAveragePool(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self._float_activation(inputs[0])
        self._image(name)
        self.emit(node, "GlobalAveragePool", [name])

    def _binary(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        if len(inputs) != 2:
            raise self.unsupported(f"{len(inputs)} operands, expected 2")
        names = [self._float_activation(name) for name in inputs if name not in self.constants]
        if len(names) == 2:
            ranks = {self.samples[name].ndim for name in names}
            if len(ranks) != 1:
                raise self.unsupported("operands with different numbers of axes")
            self.emit(node, node.op_type, names)
            return
        position = 0 if inputs[0] in self.constants else 1
        constant = self.constants[inputs[position]]
        sample = self.samples[names[0]]
        if constant.dtype != np.float32:
            raise self.unsupported(f"a constant of the type {constant.dtype}, expected float32")
        if constant.ndim > sample.ndim or (constant.ndim == sample.ndim and constant.shape[0] != 1):
            raise self.unsupported("a constant with a batch axis of its own")
        if self._per_channel(node, position, constant, names[0]):
            return
        self.emit(node, node.op_type, names, constant=constant, constant_position=position)

    def _per_channel(self, node: onnx.NodeProto, position: int, constant: np.ndarray, name: str) -> bool:
        """Emit sums and products with one number per channel as `Affine`, which fuses; tell whether it was one."""
        sample = self.samples[name]
        aligned = constant.reshape((1,) * (sample.ndim - constant.ndim) + constant.shape)
        channels = sample.shape[1]
        if aligned.shape[1] not in (1, channels) or any(size != 1 for size in aligned.shape[2:]):
            return False
        values = np.broadcast_to(aligned.reshape(-1), channels).astype(np.float64)
        ones, zeros = np.ones(channels), np.zeros(channels)
        if node.op_type == "Add":
            self._affine(node, name, ones, values)
        elif node.op_type == "Mul":
            self._affine(node, name, values, zeros)
        elif node.op_type == "Sub":
            self._affine(node, name, *((-ones, values) if position == 0 else (ones, -values)))
        else:
            return False
        return True

    _Add = _Sub = _Mul = _Div = _Max = _Min = _GreaterOrEqual = _binary

    def _Softmax(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self._float_activation(inputs[0])
        axis = self._sample_axis(attributes.get("axis", -1), self.samples[name].ndim)
        self.emit(node, "Softmax", [name], axis=axis)

    def _TopK(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self._float_activation(inputs[0])
        axis = self._sample_axis(attributes.get("axis", -1), self.samples[name].ndim)
        counts = self.constant(inputs[1], "k").reshape(-1)
        if len(counts) != 1 or not 1 <= counts[0] <= self.samples[name].shape[axis]:
            raise self.invalid(f"k = {counts.tolist()} of {self.samples[name].shape[axis]} values")
        if not attributes.get("sorted", 1):
            raise self.unsupported("sorted = 0, which leaves the order open")
        self.emit(node, "TopK", [name], axis=axis, k=int(counts[0]), largest=bool(attributes.get("largest", 1)))

    def _Slice(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self.activation(inputs[0])
        sample = self.samples[name]
        numbers = [self.constant(inputs[i], "a bound").reshape(-1).tolist() for i in range(1, len(inputs)) if inputs[i]]
        starts, ends = numbers[:2]
        axes = numbers[2] if len(numbers) > 2 else list(range(len(starts)))
        steps = numbers[3] if len(numbers) > 3 else [1] * len(starts)
        if len({len(values) for values in (starts, ends, axes, steps)}) != 1:
            raise self.invalid("starts, ends, axes and steps of different lengths")
        slices = [slice(None)] * (sample.ndim - 1)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if step < 1:
                raise self.unsupported(f"a step of {step}")
            axis = self._axis(axis, sample.ndim)
            if axis == 0:
                if start == 0 and end >= self.batch_size and step == 1:
                    continue
                raise self.unsupported("cuts the batch axis")
            slices[axis - 1] = slice(start, end, step)
        self.emit(node, "Slice", [name], slices=tuple(slices))

    def _Split(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self.activation(inputs[0])
        axis = self._sample_axis(attributes.get("axis", 0), self.samples[name].ndim)
        size = self.samples[name].shape[axis]
        if len(inputs) > 1:
            parts = self.constant(inputs[1], "the sizes of the parts").reshape(-1).tolist()
        else:
            part = -(-size // len(node.output))
            parts = [part] * (len(node.output) - 1) + [size - part * (len(node.output) - 1)]
        if len(parts) != len(node.output) or sum(parts) != size or min(parts) < 1:
            raise self.invalid(f"parts of {parts} of an axis of {size} values")
        for output, start, part in zip(node.output, np.cumsum([0, *parts]).tolist(), parts, strict=False):
            slices = [slice(None)] * (self.samples[name].ndim - 1)
            slices[axis - 1] = slice(start, start + part)
            self.emit(node, "Slice", [name], output, slices=tuple(slices))

    def _Concat(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        names = [self.activation(name) for name in inputs]
        axis = self._sample_axis(attributes["axis"], self.samples[names[0]].ndim)
        if any(
            self.samples[name].dtype != np.float32 or self.samples[name].ndim != self.samples[names[0]].ndim
            for name in names
        ):
            raise self.unsupported("joins arrays of different kinds, expected float32 with the same axes")
        self.emit(node, "Concat", names, axis=axis)

    def _Gather(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self.activation(inputs[0])
        indices = self.constant(inputs[1], "the index")
        axis = self._sample_axis(attributes.get("axis", 0), self.samples[name].ndim)
        size = self.samples[name].shape[axis]
        if indices.size == 0 or indices.min() < -size or indices.max() >= size:
            raise self.invalid(f"an index outside an axis of {size} values")
        self.emit(node, "Gather", [name], indices=indices, axis=axis)

    def _reduction(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        name = self._float_activation(inputs[0])
        rank = self.samples[name].ndim
        axes = self.constant(inputs[1], "axes").reshape(-1).tolist() if len(inputs) > 1 else attributes.get("axes")
        if not axes:
            raise self.unsupported("reduces over all axes, which mixes samples")
        axes = tuple(self._sample_axis(int(axis), rank) for axis in axes)
        self.emit(node, node.op_type, [name], axes=axes, keepdims=bool(attributes.get("keepdims", 1)))

    _ReduceMin = _ReduceMax = _ReduceMean = _reduction

    # --- quantisation -------------------------------------------------------------------------------------------

    def _grid(self, inputs: list[str], attributes: dict[str, Any]) -> Grid:
        """Return the per-tensor grid that scale and zero point of an activation describe."""
        scale = self.constant(inputs[1], "the scale")
        # Without a zero point the integers are uint8 with zero point 0.
        zero_point = self.constant(inputs[2], "the zero point") if len(inputs) > 2 else np.zeros((), np.uint8)
        bounds = INTEGER_RANGES.get(str(zero_point.dtype))
        if bounds is None:
            raise self.unsupported(f"quantisation to {zero_point.dtype}, expected 8 or 16 bits")
        if scale.size != 1 or zero_point.size != 1:
            raise self.unsupported("an activation with one scale per channel, expected one for the whole tensor")
        self._check_scale(scale)
        return Grid(np.float32(scale.reshape(())), int(zero_point.reshape(())), *bounds)

    def _check_scale(self, scale: np.ndarray) -> None:
        if scale.dtype != np.float32:
            raise self.unsupported(f"a scale of the type {scale.dtype}, expected float32")
        if not np.isfinite(scale).all() or scale.min() < np.finfo(np.float32).tiny:
            raise self.invalid("a scale that is not positive")

    def _QuantizeLinear(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        if attributes.get("block_size", 0) or attributes.get("output_dtype", 0) not in (0, 2):
            raise self.unsupported("quantisation in blocks or to another type than that of its zero point")
        if inputs[0] in self.constants:
            self.constants[node.output[0]] = self._quantize_constant(inputs, attributes)
            return
        self.quantized[node.output[0]] = _Quantized(self._float_activation(inputs[0]), self._grid(inputs, attributes))

    def _quantize_constant(self, inputs: list[str], attributes: dict[str, Any]) -> np.ndarray:
        values, scale, zero_point, _ = self._constant_grid(inputs, attributes)
        lowest, highest = INTEGER_RANGES.get(str(zero_point.dtype), (0, 0))
        if highest == 0:
            raise self.unsupported(f"quantisation to {zero_point.dtype}, expected 8 or 16 bits")
        return np.clip(np.rint(values / scale) + zero_point, lowest, highest).astype(zero_point.dtype)

    def _constant_grid(
        self, inputs: list[str], attributes: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Return a constant, its scale and zero point broadcast along the axis, and the axis."""
        values, scale = self.constants[inputs[0]], self.constant(inputs[1], "the scale")
        self._check_scale(scale)
        zero_point = np.zeros(scale.shape, values.dtype if values.dtype != np.float32 else np.uint8)
        if len(inputs) > 2:
            zero_point = self.constant(inputs[2], "the zero point")
        if zero_point.shape != scale.shape:
            raise self.invalid("scale and zero point of different shapes")
        axis = 0
        if scale.size != 1:
            axis = self._axis(attributes.get("axis", 1), values.ndim)
            if scale.shape != (values.shape[axis],):
                raise self.invalid(f"{scale.size} scales for an axis of {values.shape[axis]}")
            shape = [1] * values.ndim
            shape[axis] = -1
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        else:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        return values, scale, zero_point, axis

    def _DequantizeLinear(self, node: onnx.NodeProto, inputs: list[str], attributes: dict[str, Any]) -> None:
        if attributes.get("block_size", 0) or attributes.get("output_dtype", 0) not in (0, 1):
            raise self.unsupported("quantisation in blocks or to another type than float32")
        name, output = inputs[0], node.output[0]
        if name in self.constants:
            values, scale, zero_point, axis = self._constant_grid(inputs, attributes)
            if values.dtype.kind not in "iu":
                raise self.unsupported(f"dequantises {values.dtype}, expected integers")
            real = (values.astype(np.float64) - zero_point.astype(np.float64)).astype(np.float32) * scale
            self.constants[output] = self._constant_array(real)
            if values.dtype == np.int8 and not zero_point.any():
                self.weights[output] = QuantizedWeight(values, scale.reshape(-1), axis)
            return
        if name not in self.quantized:
            raise self.unsupported("has no QuantizeLinear right before it")
        pending = self.quantized[name]
        if self._grid(inputs, attributes) != pending.grid:
            raise self.unsupported("has another scale or zero point than the QuantizeLinear before it")
        self.emit(node, "FakeQuantize", [pending.source], grid=pending.grid)


def _fold_slice(arrays: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
    data, starts, ends, *rest = arrays
    axes = rest[0] if rest and rest[0] is not None else np.arange(len(starts))
    steps = rest[1] if len(rest) > 1 else np.ones(len(starts), np.int64)
    slices = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        slices[axis] = slice(int(start), int(end), int(step))
    return data[tuple(slices)]


def _fold_reshape(arrays: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
    data, target = arrays
    sizes = [data.shape[i] if size == 0 else int(size) for i, size in enumerate(target.reshape(-1))]
    return data.reshape(sizes)


def _fold_squeeze(arrays: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
    return np.squeeze(arrays[0], tuple(int(a) for a in arrays[1].reshape(-1)) if len(arrays) > 1 else None)


def _fold_unsqueeze(arrays: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
    return np.expand_dims(arrays[0], tuple(int(a) for a in arrays[1].reshape(-1)))


def _fold_binary(function: np.ufunc) -> Callable[..., np.ndarray]:
    def fold(arrays: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
        left, right = arrays
        if left.dtype != right.dtype:
            raise ValueError(f"an operation on {left.dtype} and {right.dtype}")
        if np.prod(np.broadcast_shapes(left.shape, right.shape), dtype=np.float64) > LARGEST_SAMPLE:
            raise ValueError("a constant that is too large")
        if function is np.divide and left.dtype.kind in "iu":
            return np.fix(left / right).astype(left.dtype)
        return function(left, right)

    return fold


#: Operators that are computed while importing if all their inputs are constants: (arrays, attributes) -> array.
FOLDABLE: dict[str, Callable[..., np.ndarray]] = {
    "Cast": lambda arrays, attributes: arrays[0].astype(CAST_TYPES[attributes["to"]]),
    "Concat": lambda arrays, attributes: np.concatenate(arrays, axis=attributes["axis"]),
    "Gather": lambda arrays, attributes: np.take(arrays[0], arrays[1], axis=attributes.get("axis", 0)),
    "Reshape": _fold_reshape,
    "Slice": _fold_slice,
    "Squeeze": _fold_squeeze,
    "Transpose": lambda arrays, attributes: np.transpose(arrays[0], attributes.get("perm")),
    "Unsqueeze": _fold_unsqueeze,
    "Add": _fold_binary(np.add),
    "Sub": _fold_binary(np.subtract),
    "Mul": _fold_binary(np.multiply),
    "Div": _fold_binary(np.divide),
}

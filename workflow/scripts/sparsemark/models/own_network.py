"""A network that comes as an ONNX file, with samples from an npz file: checked, and brought into one form.

The npz file holds samples under the name of the network's input, or as `x`, [samples, ...]; labels as `y`, if there are
any; and for every further input one value, under its name, that is the same for all samples. The first samples
calibrate INT8, the others are tested. Without a file the samples are random numbers of a range that the entry gives.
"""

import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from sparsemark.files import InputError
from sparsemark.networks.sparsity_patterns import Layer

#: Random samples, half of which calibrate.
RANDOM_SAMPLES = 256
#: The oldest operator set in which weights can be quantised per output channel.
OLDEST_OPSET = 13
QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
#: What ONNX Runtime puts before the name of a weight that a batch norm or a factor was folded into.
FUSED = re.compile(r"^(Conv(Bn|Mul|Add)Fusion_[WB]_)+")
#: Operators whose second input is a layer's weight.
WEIGHTED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class OwnNetwork:
    """A network from a file, with one input and one output, and its samples.

    Attributes:
        batch_size: of the file; 0 if it is open.
        calibration, test: float32 [samples, ...].
        labels: int64 [test samples], or None.
        title: what the samples are, for people.
    """

    model: onnx.ModelProto
    batch_size: int
    calibration: np.ndarray
    test: np.ndarray
    labels: np.ndarray | None
    title: str


def read_own_network(entry: dict, file: Path, calibration_samples: int) -> OwnNetwork:
    """Read the network in `file` and its samples, as an entry of the configuration says.

    Args:
        entry: of its keys, `data` (an npz file) or `range` (lowest and highest random number) matter here.
        calibration_samples: how many samples calibrate at most; no more than half of them do.

    Raises:
        InputError: one sentence that names the file and what was expected.
    """
    model = _read_model(file)
    data = Path(entry["data"]) if "data" in entry else None
    arrays = _read_arrays(data) if data else {}
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if not inputs:
        raise InputError(f"{file}: expected a network with an input, found none")
    named = [value for value in inputs if value.name in arrays]
    first = inputs[0] if "x" in arrays or not named else named[0]
    others = [value for value in inputs if value is not first]
    missing = [value.name for value in others if value.name not in arrays]
    if missing:
        where = f"{data}: expected" if data else f"{file}: it needs 'data', an npz file with"
        raise InputError(f"{where} a value for the input {', '.join(map(repr, missing))}, the same for all samples")
    for value in others:
        _freeze(model, value, arrays[value.name], data)
    if len(model.graph.output) != 1:
        found = ", ".join(repr(value.name) for value in model.graph.output)
        raise InputError(f"{file}: expected a network with one output, found {found}")
    shape = _check_input(first, arrays, data, file)
    if data is None:
        low, high = entry["range"]
        x = np.random.default_rng(0).uniform(low, high, (RANDOM_SAMPLES, *shape)).astype(np.float32)
        labels, title = None, f"random numbers from {low:g} to {high:g}"
    else:
        x = np.ascontiguousarray(arrays[first.name if first.name in arrays else "x"], np.float32)
        labels, title = arrays.get("y"), data.name
    batch_size = _set_shape(first, shape)
    del model.graph.value_info[:]
    model = folded(model, file)
    logits = run(model, batch_size or 1, x[:1], str(file))
    used = min(calibration_samples, len(x) // 2)
    if labels is not None:
        labels = _check_labels(labels, len(x), logits.shape[1:], data)[used:]
    return OwnNetwork(model, batch_size, x[:used], x[used:], labels, title)


def _read_model(file: Path) -> onnx.ModelProto:
    if not file.is_file():
        raise InputError(f"{file}: expected an ONNX file, but there is no such file")
    try:
        model = onnx.load(file)
        onnx.checker.check_model(model)
    except Exception as error:  # onnx raises protobuf's, its own and the system's errors
        raise InputError(f"{file}: expected a valid ONNX file ({str(error).strip().splitlines()[0]})") from error
    if integer := sorted({node.op_type for node in model.graph.node if node.op_type in QUANTISED}):
        raise InputError(f"{file}: expected an FP32 network, found the operator {integer[0]}")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("", versions.get("ai.onnx", OLDEST_OPSET)) < OLDEST_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OLDEST_OPSET)
        except Exception as error:  # of several kinds
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{file}: expected the operator set {OLDEST_OPSET} or newer, or one that can be converted ({reason})"
            ) from error
    return model


def _read_arrays(data: Path) -> dict[str, np.ndarray]:
    if not data.is_file():
        raise InputError(f"{data}: expected an npz file, but there is no such file")
    try:
        with np.load(data) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{data}: expected an npz file of plain numbers, without objects ({error})") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise InputError(f"{data}: {name}: expected numbers, found {array.dtype}")
        if not np.isfinite(array).all():
            raise InputError(
                f"{data}: {name}: expected finite numbers, found {int((~np.isfinite(array)).sum())} others"
            )
    return arrays


def _freeze(model: onnx.ModelProto, value: onnx.ValueInfoProto, array: np.ndarray, data: Path) -> None:
    """Make an input a constant."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    sizes = _fixed(value)
    fits = len(sizes) == array.ndim and all(size in (0, found) for size, found in zip(sizes, array.shape, strict=True))
    if not fits:
        raise InputError(f"{data}: {value.name}: expected the shape {sizes}, 0 for any, got {list(array.shape)}")
    model.graph.input.remove(value)
    model.graph.initializer.append(numpy_helper.from_array(array.astype(kind), value.name))


def _check_input(value: onnx.ValueInfoProto, arrays: dict, data: Path | None, file: Path) -> tuple[int, ...]:
    """Return the shape of one sample."""
    kind = value.type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT or len(kind.shape.dim) < 2:
        raise InputError(f"{file}: input {value.name!r}: expected float32 [batch, ...]")
    sizes = _fixed(value)[1:]
    if data is None:
        if 0 in sizes:
            raise InputError(
                f"{file}: input {value.name!r}: expected fixed sizes behind the batch, found {sizes}, 0 for open: "
                "'data', an npz file with samples, would tell them"
            )
        return tuple(sizes)
    name = value.name if value.name in arrays else "x"
    if name not in arrays:
        raise InputError(f"{data}: expected an array {value.name!r} or 'x' with the samples, found {list(arrays)}")
    found = arrays[name].shape
    if len(found) != 1 + len(sizes) or any(
        size not in (0, other) for size, other in zip(sizes, found[1:], strict=True)
    ):
        raise InputError(f"{data}: {name}: expected [samples, {', '.join(map(str, sizes))}], 0 for any, got {found}")
    if found[0] < 2:
        raise InputError(f"{data}: {name}: expected at least 2 samples, one to calibrate and one to test")
    return found[1:]


def _fixed(value: onnx.ValueInfoProto) -> list[int]:
    """Return the sizes of an input, 0 where one is open: without a number, named, or negative."""
    return [max(0, size.dim_value) for size in value.type.tensor_type.shape.dim]


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...], batch_size: int | None = None) -> int:
    """Fix the sizes of an input; return its batch size as it was, 0 if open."""
    before = _fixed(value)[0]
    first, *others = value.type.tensor_type.shape.dim
    if batch_size:
        first.dim_value = batch_size
    elif not before:
        first.dim_param = "batch"
    for size, fixed in zip(others, shape, strict=True):
        size.dim_value = fixed
    return before


def _check_labels(labels: np.ndarray, samples: int, output: tuple[int, ...], data: Path) -> np.ndarray:
    if labels.ndim != 1 or len(labels) != samples or labels.dtype.kind not in "iu":
        raise InputError(
            f"{data}: y: expected {samples} whole numbers, one label for each sample, got {labels.dtype} {labels.shape}"
        )
    if len(output) != 1:
        raise InputError(f"{data}: y: labels need a network whose output is [batch, classes], this one's is {output}")
    if labels.min() < 0 or labels.max() >= output[0]:
        raise InputError(
            f"{data}: y: expected labels from 0 to {output[0] - 1}, as the network has outputs, "
            f"got {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int64)


def session(model: onnx.ModelProto, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """Return ONNX Runtime's session of `model` on one thread; the graph that it runs is also written to `optimised`.

    Only in standard operators, if it is written.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if optimised:
        options.optimized_model_filepath = str(optimised)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def folded(model: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    """Return `model` with its constants computed and its batch norms folded, in standard operators.

    Raises:
        InputError: ONNX Runtime does not run it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "folded.onnx")
        try:
            session(model, path)
        except Exception as error:  # ONNX Runtime raises several kinds
            raise InputError(f"{file}: ONNX Runtime does not run it ({str(error).splitlines()[0]})") from error
        result = onnx.load(path)
    used = {node.domain for node in result.graph.node}
    if used <= {"", "ai.onnx"}:
        kept = [entry for entry in result.opset_import if entry.domain in used]
        del result.opset_import[:]
        result.opset_import.extend(kept)
        return result
    return model


def run(model: onnx.ModelProto, batch_size: int, x: np.ndarray, where: str) -> np.ndarray:
    """Return what ONNX Runtime computes in FP32 of the samples `x`, in batches of `batch_size`.

    Raises:
        InputError: it fails, or the output is no float32 [batch, ...] of finite numbers.
    """
    padded = np.concatenate([x, np.zeros((-len(x) % batch_size, *x.shape[1:]), np.float32)])
    try:
        engine, name = session(model), model.graph.input[0].name
        parts = [engine.run(None, {name: part})[0] for part in np.split(padded, len(padded) // batch_size)]
    except Exception as error:  # ONNX Runtime raises several kinds
        raise InputError(f"{where}: ONNX Runtime does not run it ({str(error).splitlines()[0]})") from error
    if parts[0].dtype != np.float32 or parts[0].ndim < 2 or len(parts[0]) != batch_size:
        found = f"{parts[0].dtype} {list(parts[0].shape)}"
        raise InputError(
            f"{where}: expected an output float32 [{batch_size}, ...] for {batch_size} samples, got {found}"
        )
    result = np.concatenate(parts)[: len(x)]
    if not np.isfinite(result).all():
        raise InputError(f"{where}: the output has numbers that are not finite")
    return result


def at_batch_size(model: onnx.ModelProto, batch_size: int, file: Path) -> onnx.ModelProto:
    """Return `model` for a fixed batch size.

    A file that was written for another one may say it in its reshapes, too; whether the result computes the same has
    to be checked.

    Raises:
        InputError: it cannot run at this batch size.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    value = fixed.graph.input[0]
    before = _set_shape(value, tuple(_fixed(value)[1:]), batch_size)
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    if before not in (0, batch_size):
        shapes = {node.input[1] for node in fixed.graph.node if node.op_type == "Reshape"}
        for tensor in fixed.graph.initializer:
            if tensor.name in shapes:
                sizes = numpy_helper.to_array(tensor).copy()
                if len(sizes) and sizes[0] == before:
                    sizes[0] = batch_size
                    tensor.CopyFrom(numpy_helper.from_array(sizes, tensor.name))
    return folded(fixed, file)


@dataclass(frozen=True)
class Weighted:
    """A layer of a graph: its shape, and its weight as it lies in the file."""

    layer: Layer
    tensor: onnx.TensorProto
    transposed: bool

    def weight(self) -> np.ndarray:
        """Return the weight, outputs first."""
        array = numpy_helper.to_array(self.tensor)
        return array.T if self.transposed else array

    def set_weight(self, weight: np.ndarray) -> None:
        array = weight.T if self.transposed else weight
        self.tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), self.tensor.name))


def weighted_layers(model: onnx.ModelProto, batch_size: int, sample: np.ndarray, file: Path) -> dict[str, Weighted]:
    """Return the convolutions and matrix products with constant weights, named after these, in the graph's order.

    Args:
        batch_size: that the model runs with.
        sample: float32 [1, ...], from which the sizes of all maps are learnt.

    Raises:
        InputError: there is none.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    chosen = [
        node
        for node in model.graph.node
        if node.op_type in WEIGHTED and node.input[1] in tensors and len(tensors[node.input[1]].dims) >= 2
    ]
    if not chosen:
        raise InputError(f"{file}: expected convolutions or matrix products with constant weights, found none")
    # Of what a flattened tensor was made.
    flattened = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in ("Flatten", "Reshape")}
    flattened = {node.input[0]: flattened[node.input[0]] for node in chosen if node.input[0] in flattened}
    inner = [*(node.output[0] for node in chosen), *flattened.values()]
    sizes = _sizes(model, batch_size, sample, inner)
    found: dict[str, Weighted] = {}
    for node in chosen:
        tensor = tensors[node.input[1]]
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        output = sizes[node.output[0]]
        if node.op_type == "Conv":
            outputs, channels, *kernel = tensor.dims
            layer = Layer(outputs, int(np.prod(kernel)), channels, int(np.prod(output[2:])), attributes.get("group", 1))
            transposed = False
        elif len(tensor.dims) == 2:
            transposed = node.op_type == "MatMul" or not attributes.get("transB", 0)
            inputs, outputs = tensor.dims if transposed else tensor.dims[::-1]
            channels = inputs
            if (source := flattened.get(node.input[0])) and len(sizes[source]) > 2 and inputs % sizes[source][1] == 0:
                channels = sizes[source][1]
            uses = int(np.prod(output)) // batch_size // outputs
            layer = Layer(outputs, inputs // channels, channels, uses, linear=True)
        else:
            continue
        name = FUSED.sub("", tensor.name).removesuffix(".weight")
        if name in found:
            # One weight, used in several places.
            layer = Layer(**{**vars(layer), "uses": layer.uses + found[name].layer.uses})
        found[name] = Weighted(layer, tensor, transposed)
    return found


def _sizes(model: onnx.ModelProto, batch_size: int, sample: np.ndarray, names: list[str]) -> dict[str, tuple]:
    """Return the shapes of tensors for one batch; the network's input is among them."""
    source = model.graph.input[0].name
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    wanted = [name for name in dict.fromkeys(names) if name != source]
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted if name not in outputs
    )
    batch = np.repeat(sample, batch_size, axis=0)
    arrays = session(watched).run(wanted, {source: batch})
    return {source: batch.shape, **{name: array.shape for name, array in zip(wanted, arrays, strict=True)}}

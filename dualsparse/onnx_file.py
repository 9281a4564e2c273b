"""Load ONNX files, and fill in the sizes that they leave open."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto, helper

from dualsparse.errors import InvalidInputError, InvalidModelError

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class OnnxFile:
    """A model as it was given."""

    proto: onnx.ModelProto  # with the constants that lie in files beside it
    source: Path | bytes  # what it was read from
    name: str  # in messages

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """What has to be fed: constants may be listed among a graph's inputs, too."""
        constants = {tensor.name for tensor in self.proto.graph.initializer}
        return [value for value in self.proto.graph.input if value.name not in constants]

    @property
    def outputs(self) -> list[onnx.ValueInfoProto]:
        return list(self.proto.graph.output)


@dataclass(frozen=True)
class Argument:
    """An input or output of a model."""

    name: str
    type: str  # as ONNX Runtime writes it, e.g. tensor(float)
    shape: tuple[int | str | None, ...] | None  # a size is a number, a name, or open; None if nothing is known
    dtype: np.dtype | None  # of its elements; None if it is no tensor of a type that NumPy has

    def accepts(self, value: object) -> bool:
        """Tell whether `value` may be fed; what isn't known here is left to ONNX Runtime to judge."""
        if self.dtype is None:
            return True
        fixed = self.shape is None or any(not isinstance(size, int) for size in self.shape)
        return isinstance(value, np.ndarray) and value.dtype == self.dtype and (fixed or value.shape == self.shape)

    def mismatch(self, value: object) -> InvalidInputError:
        """Return the error that says what `value` is and what was expected."""
        found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        expected = f"a {self.dtype} array of the shape {self.shape}"
        return InvalidInputError(f"the input {self.name!r} is {found}, expected {expected}")

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """Return a value to try a model on: normally distributed, or zeros where numbers aren't real."""
        if self.dtype is None or self.shape is None or any(not isinstance(size, int) for size in self.shape):
            raise InvalidInputError(f"the input {self.name!r} is a {self.type}, for which there are no random values")
        return (rng.standard_normal(self.shape) if self.dtype.kind == "f" else np.zeros(self.shape)).astype(self.dtype)


def arguments(values: Iterable[onnx.ValueInfoProto]) -> list[Argument]:
    """Describe inputs or outputs."""
    result = []
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else None
        known = dtype is not None and dtype.kind in "fiub" and dtype.isbuiltin
        result.append(
            Argument(
                value.name,
                _type_name(value.type),
                shape if tensor.HasField("shape") else None,
                dtype if known else None,
            )
        )
    return result


def _type_name(type_: onnx.TypeProto) -> str:
    kind = type_.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        return f"{'seq' if kind == 'sequence_type' else 'optional'}({_type_name(getattr(type_, kind).elem_type)})"
    names = {"DOUBLE": "double", "FLOAT": "float"}
    name = TensorProto.DataType.Name(type_.tensor_type.elem_type)
    return f"tensor({names.get(name, name.lower())})"


def load(source: Path | str | bytes, name: str | None = None) -> OnnxFile:
    """Read a model from a file, or from its bytes.

    Constants in files of their own are read from the model's folder and from nowhere else.

    Args:
        name: what messages call it; by default its path.

    Raises:
        InvalidModelError: not an ONNX model, or a broken one.
        OSError: the file cannot be read.
    """
    source = source if isinstance(source, bytes) else Path(source)
    content = source if isinstance(source, bytes) else source.read_bytes()
    name = name or (str(source) if isinstance(source, Path) else "the model")
    # Bytes have no folder: onnx refuses one that isn't there.
    folder = source.parent if isinstance(source, Path) else Path("no folder")
    try:
        model = onnx.load_model_from_string(content)
        onnx.load_external_data_for_model(model, str(folder))
        _check(model, source)
    except (DecodeError, EncodeError, onnx.checker.ValidationError, OSError, ValueError, TypeError) as error:
        raise InvalidModelError(f"{name}: not a valid ONNX model ({first_line(error)})") from error
    return OnnxFile(model, source, name)


def _check(model: onnx.ModelProto, source: Path | bytes) -> None:
    """Have ONNX's checker look at a model, and forgive inputs and outputs without a shape, or with sizes of -1."""
    values = [*model.graph.input, *model.graph.output]
    tensors = [value.type.tensor_type for value in values if value.type.HasField("tensor_type")]
    shapeless = [tensor for tensor in tensors if not tensor.HasField("shape")]
    for tensor in shapeless:
        tensor.shape.SetInParent()
    # What lies in several files may be too large for one message.
    beside = isinstance(source, Path) and model.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF
    onnx.checker.check_model(str(source) if beside else model)
    for tensor in shapeless:
        tensor.ClearField("shape")
    for dim in (dim for tensor in tensors for dim in tensor.shape.dim):
        if dim.dim_value < 0:  # some exporters' way to leave a size open
            dim.ClearField("dim_value")


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def with_sizes(file: OnnxFile, batch_size: int | None, shapes: Shapes) -> onnx.ModelProto:
    """Return a copy of the model whose inputs have the given sizes, and no claims about other tensors.

    Args:
        batch_size: what an open first size of an input becomes; None stands for 1.
        shapes: of inputs, by name. Sizes of one name (`dim_param`) are the same everywhere.

    Raises:
        InvalidInputError: a size contradicts the file, or is missing.
    """
    model = onnx.ModelProto()
    model.CopyFrom(file.proto)
    values = {value.name: value for value in model.graph.input}
    tensors = [values[value.name] for value in file.inputs if value.type.HasField("tensor_type")]
    unknown = sorted(set(shapes) - {value.name for value in tensors})
    if unknown:
        raise InvalidInputError(f"{file.name}: has no input {unknown[0]!r}")
    named: dict[str, int] = {}
    for value in tensors:
        if value.name in shapes:
            _give_shape(file.name, value, shapes[value.name], named)
    firsts = [value.type.tensor_type.shape.dim[0] for value in tensors if value.type.tensor_type.shape.dim]
    opens = [dim for dim in firsts if not dim.HasField("dim_value") and dim.dim_param not in named]
    if batch_size is not None and firsts and not opens and all(dim.dim_value != batch_size for dim in firsts):
        made_for = firsts[0].dim_value
        raise InvalidInputError(f"{file.name}: made for a batch size of {made_for}, but {batch_size} was asked for")
    for dim in opens:
        if dim.dim_param:
            named.setdefault(dim.dim_param, batch_size or 1)
        dim.dim_value = named.get(dim.dim_param, batch_size or 1)
    for value in tensors:
        if not value.type.tensor_type.HasField("shape"):
            raise InvalidInputError(f"{file.name}: leaves the shape of the input {value.name!r} open: give `shapes`")
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                if dim.dim_param not in named:
                    raise InvalidInputError(
                        f"{file.name}: leaves the size of axis {axis} of the input {value.name!r} open: give `shapes`"
                    )
                dim.dim_value = named[dim.dim_param]
    for value in (*model.graph.value_info, *model.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return model


def _give_shape(file: str, value: onnx.ValueInfoProto, shape: Sequence[int], named: dict[str, int]) -> None:
    """Set an input's shape, noting the sizes that the file has names for."""
    tensor, shape = value.type.tensor_type, [int(size) for size in shape]
    declared = list(tensor.shape.dim)
    fits = not tensor.HasField("shape") or len(declared) == len(shape)
    for dim, size in zip(declared, shape, strict=False):
        if dim.HasField("dim_value"):
            fits = fits and dim.dim_value == size
        elif dim.dim_param:
            fits = fits and named.setdefault(dim.dim_param, size) == size
    if not fits or min(shape, default=0) < 0:
        sizes = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in declared]
        raise InvalidInputError(f"{file}: the input {value.name!r} has the shape {sizes}, not {shape}")
    tensor.shape.CopyFrom(onnx.TensorShapeProto(dim=[{"dim_value": size} for size in shape]))

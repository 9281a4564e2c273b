"""The ONNX model that every tool starts from: checked, with a fixed batch size, in a form that all of them read."""

from collections import Counter
from pathlib import Path

import onnx

from sparsemark.files import InputError

#: The newest IR version that every engine of the study reads.
COMMON_IR_VERSION = 9


def load_model(path: Path, keep_order: bool = False) -> onnx.ModelProto:
    """Return the ONNX model `path`, checked, with one input of a fixed batch size.

    Unless `keep_order`, each ReLU behind a max-pool is moved before it (see `relu_before_pool`).

    Operator sets that no node uses are dropped and the IR version is lowered where nothing depends on it, because
    older engines refuse both.

    Raises:
        InputError: the file is missing, is no ONNX model, or its batch size is not fixed.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # onnx raises protobuf's, its own and the system's errors
        raise InputError(f"{path}: expected a valid ONNX model ({str(error).splitlines()[0]})") from error
    used = {node.domain or "" for node in model.graph.node}
    kept = [entry for entry in model.opset_import if (entry.domain.removeprefix("ai.onnx") or "") in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = min(model.ir_version, COMMON_IR_VERSION)
    if batch_size_of(model) < 1:
        raise InputError(f"{path}: input {model.graph.input[0].name!r}: expected a fixed batch size")
    return model if keep_order else relu_before_pool(model)


def check_nodes(model: onnx.ModelProto, names: tuple[str, ...], path: Path) -> None:
    """Raise InputError if one of `names` is no node of the model that came from `path`."""
    unknown = set(names) - {node.name for node in model.graph.node}
    if unknown:
        raise InputError(f"{path}: no node is named {', '.join(sorted(unknown))}")


def batch_size_of(model: onnx.ModelProto) -> int:
    """Return the batch size of the model's input, 0 if it is not fixed."""
    return model.graph.input[0].type.tensor_type.shape.dim[0].dim_value


def relu_before_pool(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with every ReLU that follows a max-pool moved in front of it; the results are the same.

    Engines fuse a ReLU into the integer convolution before it. With a max-pool in between they leave integers to
    apply it, and the range of what they quantise is that of the signed convolution.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = list(result.graph.node)
    readers = Counter(name for node in nodes for name in node.input)
    readers.update(output.name for output in result.graph.output)
    makers = {node.output[0]: index for index, node in enumerate(nodes)}
    for index, relu in enumerate(nodes):
        pool_index = makers.get(relu.input[0]) if relu.op_type == "Relu" else None
        if pool_index is None or nodes[pool_index].op_type != "MaxPool" or readers[relu.input[0]] > 1:
            continue
        pool = nodes[pool_index]
        relu.input[0], relu.output[0], pool.input[0], pool.output[0] = (
            pool.input[0],
            f"{relu.output[0]}_before_pool",
            f"{relu.output[0]}_before_pool",
            relu.output[0],
        )
        nodes[pool_index], nodes[index] = relu, pool
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    # Shapes of inner tensors, which no longer fit.
    del result.graph.value_info[:]
    onnx.checker.check_model(result)
    return result

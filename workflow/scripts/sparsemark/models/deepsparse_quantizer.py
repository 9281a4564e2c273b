"""Write an INT8 network in the one form that DeepSparse compiles itself instead of handing it to its fallback.

Every convolution and matrix product with constant weights becomes

    QuantizeLinear (uint8) -> ConvInteger | MatMulInteger (int8 weights) -> Add (int32 bias) -> Cast -> Mul (scales)

and everything between stays as it is: DeepSparse fuses pooling, activation and the next QuantizeLinear into the
integer kernels. Its compiler gives up on some sparse layers by ending the process, so the result is compiled here,
in a process of its own; a layer that ends it is left in FP32 and named in the model's metadata (`left_in_fp32`).
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sparsemark.files import InputError, atomic_path
from sparsemark.models import saturation
from sparsemark.models.calibration import load_calibration
from sparsemark.models.onnx_model import batch_size_of, load_model
from sparsemark.models.quantization import activation_ranges, int8_weights

#: So many forms are tried: all of a network with up to seven layers. Each takes seconds, and a large network that fails
#: in one layer fails in several.
MOST_FORMS = 16
#: The integer counterparts, and the axis of the weights that counts output channels.
INTEGER_OPERATORS = {"Conv": ("ConvInteger", 0), "MatMul": ("MatMulInteger", 1)}


def quantizable_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the convolutions and matrix products whose weights are constants, in the order of the graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in INTEGER_OPERATORS and node.input[1] in constants]


def uint8_parameters(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point that map the range [low, high], widened to hold 0, onto 0..255."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255 or 1.0)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def integer_model(
    model: onnx.ModelProto,
    ranges: dict[str, tuple[float, float]],
    left_in_fp32: tuple[str, ...] = (),
    reduce_range: bool = False,
) -> onnx.ModelProto:
    """Return `model` with its convolutions and matrix products in integer arithmetic.

    Args:
        ranges: lowest and highest calibration value of every tensor that enters such an operator.
        left_in_fp32: names of the nodes that stay as they are.
        reduce_range: weights of 7 bits, whose products cannot saturate (see `saturation`).
    """
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    chosen = {node.name for node in quantizable_nodes(model)} - set(left_in_fp32)
    nodes, constants, quantized = [], {}, {}
    for node in model.graph.node:
        if node.name not in chosen:
            nodes.append(node)
            continue
        source, weights_name, *bias_name = node.input
        operator, axis = INTEGER_OPERATORS[node.op_type]
        stem = node.output[0]
        scale, zero_point = uint8_parameters(*ranges[source])
        if source not in quantized:
            quantized[source] = f"{source}_uint8"
            constants[f"{source}_scale"], constants[f"{source}_zero"] = scale, zero_point
            inputs = [source, f"{source}_scale", f"{source}_zero"]
            nodes.append(helper.make_node("QuantizeLinear", inputs, [quantized[source]]))
        integers, scales = int8_weights(weights[weights_name], axis, 63 if reduce_range else 127)
        constants[f"{stem}_weights"], constants[f"{stem}_weights_zero"] = integers, np.int8(0)
        inputs = [quantized[source], f"{stem}_weights", f"{source}_zero", f"{stem}_weights_zero"]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        nodes.append(helper.make_node(operator, inputs, [f"{stem}_int32"], name=f"{node.name}_integer", **attributes))
        total = f"{stem}_int32"
        # [output channels, 1, 1] broadcasts over the result of a convolution, [columns] over that of a product.
        factors = scale * (scales.reshape(-1, 1, 1) if operator == "ConvInteger" else scales.reshape(-1))
        if bias_name:
            constants[f"{stem}_bias"] = np.rint(weights[bias_name[0]].reshape(-1, 1, 1) / factors).astype(np.int32)
            nodes.append(helper.make_node("Add", [total, f"{stem}_bias"], [f"{stem}_biased"]))
            total = f"{stem}_biased"
        constants[f"{stem}_factors"] = factors.astype(np.float32)
        nodes.append(helper.make_node("Cast", [total], [f"{stem}_float"], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{stem}_float", f"{stem}_factors"], [stem]))
    used = {name for node in nodes for name in node.input}
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in used]
    initializers += [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, initializers)
    opset = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    result = helper.make_model(graph, opset_imports=opset, ir_version=model.ir_version)
    helper.set_model_props(result, {"left_in_fp32": " ".join(left_in_fp32)})
    saturation.record(result, "weights of 7 bits" if reduce_range else "")
    onnx.checker.check_model(result)
    return result


def _compile(path: str, batch_size: int, threads: int, answer: Connection) -> None:
    os.environ["NM_DISABLE_ANALYTICS"] = "True"
    import deepsparse

    engine = deepsparse.Engine(path, batch_size=batch_size, num_cores=threads)
    answer.send(engine.fraction_of_supported_ops)


def own_operator_share(path: Path, batch_size: int, threads: int, timeout_s: float = 120) -> float:
    """Return the share of operators that DeepSparse compiles itself; 0 if its compiler ends the process or hangs."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_compile, args=(str(path), batch_size, threads, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(timeout_s) else 0.0
    except EOFError:
        return 0.0
    finally:
        process.kill()
        process.join()


def candidates(nodes: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield sets of nodes to leave in FP32: none, then each one alone, then all but each one."""
    yield ()
    yield from ((name,) for name in nodes)
    yield from (tuple(other for other in nodes if other != name) for name in nodes)


def quantize(model_path: Path, calibration: Path, out: Path) -> tuple[str, ...]:
    """Write the INT8 form of `model_path` to `out`; return the nodes that had to stay in FP32.

    Raises:
        InputError: DeepSparse compiles none of the forms.
    """
    # In this order its compiler takes more sparse layers than with each ReLU before its max-pool.
    model = load_model(model_path, keep_order=True)
    nodes = quantizable_nodes(model)
    ranges = activation_ranges(model, sorted({node.input[0] for node in nodes}), load_calibration(calibration))
    layouts = sorted({1, len(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        for left_in_fp32 in islice(candidates([node.name for node in nodes]), MOST_FORMS):
            form = integer_model(model, ranges, left_in_fp32, saturation.saturates())
            trial = Path(folder, "trial.onnx")
            onnx.save(form, trial)
            if all(own_operator_share(trial, batch_size_of(model), threads) == 1 for threads in layouts):
                with atomic_path(out) as partial:
                    onnx.save(form, partial)
                return left_in_fp32
            print(f"{model_path}: not compiled with FP32 in {left_in_fp32 or 'no layer'}", file=sys.stderr, flush=True)
    raise InputError(f"{model_path}: DeepSparse compiles none of its INT8 forms whole")

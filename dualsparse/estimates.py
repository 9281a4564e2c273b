"""What a layer is expected to take in our kernels and in ONNX Runtime, and who is to run it."""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx

from dualsparse.graph import Graph, static_shape
from dualsparse.layers import FloatLayer, IntegerLayer
from dualsparse.patterns import recognise
from dualsparse.plan import LayerStep, Plan, RuntimeStep

#: Multiplications with non-zero weights per µs and thread, by kernel: rounded, from one core at 3 to 4 GHz.
RATES = {
    "taps, vpdpbusd": 3.5e5,
    "n of 64, vpermb": 3e5,
    "quads, vpdpbusd": 5e5,
    "events, vpdpbusd": 4e4,
    "unstructured, float32": 2.5e4,
    "unstructured, vpdpbusd": 1e5,
    "portable": 5e3,
}
#: Multiplications per µs and thread in ONNX Runtime, zeros included.
RUNTIME_RATES = {"fp32": 4e4, "int8": 5e4}
#: A linear layer of few samples waits for its weights, in ONNX Runtime and in the portable program.
FEW_SAMPLES, FEW_SAMPLES_SHARE = 8, 0.4
#: What it takes to hand values to ONNX Runtime and back, in µs.
CROSSING = 12.0
#: A batch of this many float32 samples is expected to have a kernel of its own.
FLOAT_BATCH = 4
#: By how much ONNX Runtime has to be faster: estimates are rough, and a plan with fewer parts is the better one.
MARGIN = 1.25


def precision(layer: FloatLayer | IntegerLayer) -> str:
    return "int8" if isinstance(layer, IntegerLayer) else "fp32"


def macs(layer: FloatLayer | IntegerLayer) -> int:
    """Return the multiplications per sample of a layer if none of its weights is zero."""
    return layer.weight.size * _positions(layer)


def _positions(layer: FloatLayer | IntegerLayer) -> int:
    """Return at how many places each weight is used."""
    if layer.kind != "conv":
        return 1
    # Of the convolution itself: a pool may drop a last row or column, which is not computed.
    height, width = layer.output_shape[1:]
    return height * width * (layer.pool[0] * layer.pool[1] if layer.pool else 1)


def remaining_macs(step: LayerStep, index: int, kernel: str) -> int:
    """Return the multiplications per sample with weights that aren't zero, in columns that are computed."""
    layer, share = step.layers[index], 1.0
    if step.gate is not None and index == step.gate.layer_index:
        share = step.gate.computed_columns / step.gate.columns
    if kernel.startswith("events"):
        share *= layer.active
    return round(np.count_nonzero(layer.weight) * _positions(layer) * share)


def expected_kernels(step: LayerStep, fast: bool) -> list[str]:
    """Guess which kernels a sequence will have; the fastest in doubt, since these are looked at again when made.

    Args:
        fast: whether this CPU and the settings allow others than the portable one.
    """
    kernels = []
    for layer in step.layers:
        if not fast or layer.groups > 1 or (precision(layer) == "fp32" and step.samples < FLOAT_BATCH):
            kernels.append("portable")
        elif precision(layer) == "fp32":
            kernels.append("unstructured, float32")
        else:
            dense = recognise(layer.weight, layer.input_shape).name in ("dense", "block16")
            kernels.append("quads, vpdpbusd" if dense else "n of 64, vpermb")
    return kernels


def better_elsewhere(plan: Plan, kernels: Sequence[Sequence[str]], threads: int) -> set[str]:
    """Return the layers (by the outputs of their nodes) that ONNX Runtime is expected to run faster than we do.

    Args:
        kernels: of the layers of each LayerStep.
    """
    result: set[str] = set()
    steps = [step for step in plan.steps if isinstance(step, LayerStep)]
    parts = [step for step in plan.steps if isinstance(step, RuntimeStep)]
    for step, names in zip(steps, kernels, strict=True):
        ours, theirs = [], []
        for index, (layer, kernel) in enumerate(zip(step.layers, names, strict=True)):
            waits = layer.kind == "linear" and step.samples < FEW_SAMPLES
            rate = RATES.get(kernel, RATES["portable"]) * min(threads, step.samples)
            rate *= FEW_SAMPLES_SHARE if waits and kernel == "portable" else 1
            ours.append(step.samples * remaining_macs(step, index, kernel) / rate)
            rate = RUNTIME_RATES[precision(layer)] * threads * (FEW_SAMPLES_SHARE if waits else 1)
            theirs.append(MARGIN * step.samples * macs(layer) / rate)
        before = any(step.input in part.outputs for part in parts)
        after = any(step.output in part.inputs for part in parts)
        choice = _cheapest(ours, theirs, before, after)
        result |= {node for node, own in zip(step.nodes, choice, strict=True) if not own}
    return result


def _cheapest(ours: list[float], theirs: list[float], before: bool, after: bool) -> list[bool]:
    """Return who runs each layer of a sequence, True for us, so that the sum of times and crossings is the least.

    Args:
        before, after: whether ONNX Runtime has the values before the first layer, and needs those of the last.
    """
    # By who runs the layer reached last: the least cost, and who ran all before.
    best: dict[bool, tuple[float, list[bool]]] = {not before: (0.0, [])}
    for costs in zip(theirs, ours, strict=True):
        best = {
            own: min(
                ((cost + costs[own] + (CROSSING / 2 if last != own else 0), [*path, own]))
                for last, (cost, path) in best.items()
            )
            for own in (False, True)
        }
    return min((cost + (CROSSING / 2 if own == after else 0), path) for own, (cost, path) in best.items())[1]


def node_macs(graph: Graph, node: onnx.NodeProto) -> int:
    """Return the multiplications of a node with weights, or of a product of matrices; 0 if its shapes are open."""
    places = {"Conv": (0, 1), "ConvTranspose": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
    places |= {"Gemm": (0, 1), "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
    places |= {"LSTM": (0, 1, 2), "GRU": (0, 1, 2), "RNN": (0, 1, 2)}
    if node.op_type not in places:
        return 0
    types = [graph.types.get(node.input[place]) for place in places[node.op_type]] + [graph.types.get(node.output[0])]
    shapes = [static_shape(type_, type_.tensor_type.elem_type) if type_ is not None else None for type_ in types]
    read, weight, *recurrent = shapes
    if node.op_type in ("LSTM", "GRU", "RNN"):
        known = None not in (read, weight, recurrent[0])
        return read[0] * read[1] * (prod(weight) + prod(recurrent[0])) if known else 0
    made = shapes[-1]
    if None in (read, weight, made):
        return 0
    if node.op_type == "ConvTranspose":
        return prod(read) * prod(weight[1:])
    if "Conv" in node.op_type:
        return prod(made) * prod(weight[1:])
    across = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return prod(made) * read[0 if across else -1]

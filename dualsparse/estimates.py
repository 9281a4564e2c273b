"""What a layer is expected to take in our kernels and in ONNX Runtime, and who is to run it."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

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
    "portable": 1.2e4,
}
#: What the portable program takes besides, in µs: for each layer, and for each value that goes into or out of one.
PORTABLE_LAYER, PORTABLE_VALUE = 15.0, 3e-3
#: Multiplications per µs and thread in ONNX Runtime, zeros included.
RUNTIME_RATES = {"fp32": 4e4, "int8": 1.5e5}
#: A linear layer of few samples waits for its weights, in ONNX Runtime and in the portable program.
FEW_SAMPLES, FEW_SAMPLES_SHARE = 8, 0.3
#: What it takes to hand values to ONNX Runtime and back, in µs; and for each value that goes into or out of a sequence.
CROSSING, CROSSING_VALUE = 25.0, 1.2e-3
#: A batch of this many float32 samples is expected to have a kernel of its own.
FLOAT_BATCH = 4
#: By how much ONNX Runtime has to be faster: estimates are rough, and a plan with fewer parts is the better one.
MARGIN = 1.5


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


def own_us(step: LayerStep, index: int, kernel: str) -> float:
    """Return how many µs per sample and thread a layer of a sequence is expected to take here."""
    layer = step.layers[index]
    multiplying = remaining_macs(step, index, kernel) / RATES.get(kernel, RATES["portable"])
    if kernel != "portable":
        return multiplying
    values = prod(layer.input_shape) + prod(layer.output_shape)
    return multiplying / _waiting(step, layer) + PORTABLE_VALUE * values + PORTABLE_LAYER / step.samples


def _waiting(step: LayerStep, layer: FloatLayer | IntegerLayer) -> float:
    """Return the share of the usual rate that a layer reaches."""
    return FEW_SAMPLES_SHARE if layer.kind == "linear" and step.samples < FEW_SAMPLES else 1.0


def better_elsewhere(plan: Plan, kernels: Sequence[Sequence[str]], threads: int) -> set[str]:
    """Return the layers (by the outputs of their nodes) that ONNX Runtime is expected to run faster than we do.

    Args:
        kernels: of the layers of each LayerStep.
    """
    result: set[str] = set()
    steps = [step for step in plan.steps if isinstance(step, LayerStep)]
    parts = [step for step in plan.steps if isinstance(step, RuntimeStep)]
    for step, names in zip(steps, kernels, strict=True):
        costs = []
        for index, (layer, kernel) in enumerate(zip(step.layers, names, strict=True)):
            ours = own_us(step, index, kernel) * step.samples / min(threads, step.samples)
            theirs = MARGIN * macs(layer) / RUNTIME_RATES[precision(layer)] / _waiting(step, layer)
            values = prod(layer.input_shape), prod(layer.output_shape)
            enter, leave = (step.samples * CROSSING_VALUE * count for count in values)
            costs.append(_Costs(ours, theirs * step.samples / threads, enter, leave))
        before = any(step.input in part.outputs for part in parts)
        after = any(step.output in part.inputs for part in parts)
        choice = _cheapest(costs, before, after)
        result |= {node for node, own in zip(step.nodes, choice, strict=True) if not own}
    return result


class _Costs(NamedTuple):
    """The µs that a layer takes here and in ONNX Runtime, and those to begin or end a sequence with it."""

    ours: float
    theirs: float
    enter: float
    leave: float


def _cheapest(costs: list[_Costs], before: bool, after: bool) -> list[bool]:
    """Return who runs each layer of a sequence, True for us, so that the sum of times and crossings is the least.

    Args:
        before, after: whether ONNX Runtime has the values before the first layer, and needs those of the last.
    """
    half = CROSSING / 2
    # The least cost up to a layer that we (ONNX Runtime) run, and who ran those before.
    own = (costs[0].ours + costs[0].enter + half * before, [True])
    other = (costs[0].theirs + half * (not before), [False])
    for last, layer in pairwise(costs):
        stay, come = own[0], other[0] + half + layer.enter
        remain, go = other[0], own[0] + half + last.leave
        own, other = (
            (min(stay, come) + layer.ours, [*(own if stay <= come else other)[1], True]),
            (min(remain, go) + layer.theirs, [*(other if remain <= go else own)[1], False]),
        )
    own = (own[0] + costs[-1].leave + half * after, own[1])
    other = (other[0] + half * (not after), other[1])
    return min(own, other)[1]


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

"""From a graph to steps: sequences of fused layers, which kernels run, and single operators, which NumPy runs."""

import math
from dataclasses import dataclass, replace

import numpy as np

from dualsparse.graph import Graph, Node
from dualsparse.layers import ColumnGate, FloatLayer, InputQuantization, IntegerLayer
from dualsparse.operators import Grid
from dualsparse.simplify import simplify


@dataclass(frozen=True)
class LayerStep:
    """Consecutive fused layers, all in float32 or all in 8-bit integers. Float32 goes in and comes out."""

    layers: tuple[FloatLayer | IntegerLayer, ...]
    gate: ColumnGate | None
    quantization: InputQuantization | None  # None for float layers
    input: str
    output: str


@dataclass(frozen=True)
class OperatorStep:
    """One operator that fuses with no layer."""

    node: Node

    @property
    def output(self) -> str:
        return self.node.output


@dataclass(frozen=True)
class Plan:
    """What an engine executes, in order. `shapes` are those of one sample, per activation."""

    input: str
    output: str
    steps: tuple[LayerStep | OperatorStep, ...]
    shapes: dict[str, tuple[int, ...]]
    batch_size: int


def make_plan(graph: Graph) -> Plan:
    """Simplify `graph` (in place) and fuse it into a plan."""
    simplify(graph)
    steps: list[LayerStep | OperatorStep] = []
    absorbed: set[str] = set()  # outputs of nodes that are part of a LayerStep
    for node in graph.nodes:
        if node.output in absorbed:
            continue
        if node.op in ("Conv", "Linear"):
            step, outputs = _sequence(graph, node)
            steps.append(step)
            absorbed.update(outputs)
        else:
            steps.append(OperatorStep(node))
    return Plan(graph.input, graph.output, tuple(_needed(steps, graph.output)), graph.shapes, graph.batch_size)


def _needed(steps: list[LayerStep | OperatorStep], output: str) -> list[LayerStep | OperatorStep]:
    """Drop operators that only a fused layer read: it does their work itself."""
    needed, result = {output}, []
    for step in reversed(steps):
        if step.output in needed:
            needed.update([step.input] if isinstance(step, LayerStep) else step.node.inputs)
            result.append(step)
    return result[::-1]


@dataclass(frozen=True)
class _Chain:
    """A layer with the operators absorbed behind it so far: relu(scale * pooled + shift), then gate or winners."""

    tensor: str  # where the chain ends
    outputs: tuple[str, ...]  # of all nodes in it
    scale: np.ndarray
    shift: np.ndarray
    relu: bool = False
    pool: tuple[int, int] | None = None
    viewed: bool = False
    gate: Node | None = None
    winners: int | None = None
    grids: tuple[Grid, ...] = ()  # of the quantisations passed
    ends_quantized: bool = False  # nothing but views behind the last of them


def _extend(graph: Graph, chain: _Chain, node: Node, layer: Node, gate_allowed: bool, integer: bool) -> _Chain | None:
    """Return `chain` with `node` fused behind it; None if it can't be."""
    attributes = node.attributes
    new = replace(chain, tensor=node.output, outputs=(*chain.outputs, node.output))
    if node.op == "View":
        return replace(new, viewed=True)
    if node.op == "FakeQuantize":
        grid = attributes["grid"]
        eight_bits = grid.highest - grid.lowest == 255
        return replace(new, grids=(*chain.grids, grid), ends_quantized=True) if integer and eight_bits else None
    new = replace(new, ends_quantized=False)
    if node.op == "Relu":
        return replace(new, relu=True)
    if chain.viewed or chain.gate is not None or chain.winners is not None:
        return None
    if node.op == "KWinners" and integer:
        return replace(new, winners=node.attributes["k"])
    if node.op == "Affine" and not chain.relu and not chain.grids:
        scale, shift = attributes["scale"], attributes["shift"]
        # Max-pool may run before a factor only if the factor keeps the order; integers are always pooled first.
        if (scale > 0).all() or (chain.pool is None and not integer):
            return replace(new, scale=chain.scale * scale, shift=chain.shift * scale + shift)
    if node.op == "MaxPool" and chain.pool is None and layer.op == "Conv":
        window = attributes["window"]
        plain = window.kernel == window.stride and not any(window.padding) and window.dilation == (1, 1)
        if plain and not window.ceil_mode:
            return replace(new, pool=window.kernel)
    if node.op == "ColumnGate" and gate_allowed and layer.op == "Conv" and node.inputs[0] == chain.tensor:
        return replace(new, gate=node)
    return None


def _chains(graph: Graph, layer: Node, gate_allowed: bool, integer: bool) -> list[_Chain]:
    """Return the chain behind `layer` after each operator that fuses, the bare layer first."""
    outputs = layer.shape[0]
    bias = layer.attributes["bias"].astype(np.float64)
    chain = _Chain(layer.output, (layer.output,), np.ones(outputs), bias)
    chains = [chain]
    while (node := graph.sole_consumer(chain.tensor)) is not None:
        extended = _extend(graph, chain, node, layer, gate_allowed, integer)
        if extended is None:
            break
        chain = extended
        chains.append(chain)
    return chains


def _integer_input(graph: Graph, layer: Node) -> tuple[str, Grid] | None:
    """Return the float tensor and the grid that an integer layer reads; None if it has to run in float32."""
    if layer.attributes["quantized"] is None:
        return None
    node = graph.producer(layer.inputs[0])
    while node is not None and node.op == "View" and layer.op == "Linear":
        node = graph.producer(node.inputs[0])
    if node is None or node.op != "FakeQuantize":
        return None
    grid = node.attributes["grid"]
    weight = layer.attributes["quantized"][0]
    largest = 255 * np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1).max(initial=0)
    if grid.highest - grid.lowest != 255 or largest >= 1 << 31:
        return None
    return node.inputs[0], grid


def _unsigned(grid: Grid) -> int:
    """Return the zero point of `grid` shifted to integers from 0 to 255."""
    return grid.zero_point - grid.lowest


def _cut(graph: Graph, chains: list[_Chain]) -> tuple[_Chain, Grid | None]:
    """Choose where a chain of integer arithmetic ends, and the grid of its output (None: float32).

    Quantisations inside the chain are left out, so that a value is rounded once where the file rounds it repeatedly;
    that is allowed only if they don't clip what the chain's last quantisation keeps.
    """
    full = chains[-1]
    following = graph.sole_consumer(full.tensor)
    goes_on = following is not None and following.op in ("Conv", "Linear") and _integer_input(graph, following)
    if goes_on and full.ends_quantized and _clips_nothing(full):
        return _rectified(full, full.grids), full.grids[-1]
    # Winners are chosen among integers only.
    chains = [chain for chain in chains if chain.winners is None]
    full = chains[-1]
    if full.ends_quantized and _clips_nothing(full):
        if full.tensor == graph.output:
            return _rectified(full, full.grids), None
        before = next(chain for chain in reversed(chains) if len(chain.grids) < len(full.grids))
        return _rectified(before, full.grids[:-1]), None
    return next(chain for chain in reversed(chains) if not chain.grids), None


def _rectified(chain: _Chain, grids: tuple[Grid, ...]) -> _Chain:
    """Return `chain` with a ReLU if one of `grids` begins at zero, which is one."""
    return replace(chain, relu=chain.relu or any(grid.range[0] == 0 for grid in grids))


def _clips_nothing(chain: _Chain) -> bool:
    """Tell whether no quantisation in `chain` cuts off values that its last one keeps."""
    *inner, final = chain.grids
    lowest = max(final.range[0], 0.0) if chain.relu else final.range[0]
    step = float(final.scale)
    return all(
        (grid.range[0] == 0 or grid.range[0] <= lowest + step) and grid.range[1] >= final.range[1] - step
        for grid in inner
    )


def _active_share(graph: Graph, tensor: str) -> float:
    """Return about how many of a tensor's values aren't zero: known behind winners, guessed behind a ReLU."""
    pooled = rectified = False
    node = graph.producer(tensor)
    while node is not None and node.op in ("View", "FakeQuantize", "MaxPool", "Relu"):
        pooled, rectified = pooled or node.op == "MaxPool", rectified or node.op == "Relu"
        node = graph.producer(node.inputs[0])
    if node is not None and node.op == "KWinners":
        return node.attributes["k"] / math.prod(node.shape)
    if node is not None and node.op == "ColumnGate":
        settings, columns = node.attributes, node.shape[2]
        computed = min(settings["keep"] * (2 if settings["pair"] else 1), columns)
        return computed / columns * _active_share(graph, node.inputs[0])
    # One positive value is enough for a pool.
    return (0.75 if pooled else 0.5) if rectified else 1.0


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape [C, H, W] of a 1-D sample [C, W]; others stay."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def _sequence(graph: Graph, node: Node) -> tuple[LayerStep, set[str]]:
    """Fuse the longest sequence of layers that begins at `node`; return it and the outputs of the nodes in it."""
    quantized_input = _integer_input(graph, node)
    source, grid = quantized_input or (node.inputs[0], None)
    quantization = InputQuantization(float(grid.scale), _unsigned(grid)) if grid else None
    layers: list[FloatLayer | IntegerLayer] = []
    outputs: set[str] = set()
    gate: ColumnGate | None = None
    shape = _image_shape(graph.shapes[source]) if node.op == "Conv" else graph.shapes[source]
    layer: Node | None = node
    while layer is not None:
        # Only integer programs leave columns out; between float layers a gate is an operator of its own.
        gate_allowed = gate is None and source == graph.input and quantization is not None
        chains = _chains(graph, layer, gate_allowed, quantization is not None)
        active = _active_share(graph, layer.inputs[0])
        if quantization is None:
            chain, next_grid = chains[-1], None
            layers.append(_float_layer(layer, chain, shape, active))
        else:
            chain, next_grid = _cut(graph, chains)
            layers.append(_integer_layer(layer, chain, shape, grid, next_grid, active))
        outputs.update(chain.outputs)
        if chain.gate is not None:
            gate = ColumnGate(columns=chain.gate.shape[2], layer_index=len(layers) - 1, **chain.gate.attributes)
        tensor, shape, grid = chain.tensor, layers[-1].output_shape, next_grid
        layer = graph.sole_consumer(tensor)
        if layer is None or layer.op not in ("Conv", "Linear") or (quantization is not None and next_grid is None):
            break
        if quantization is None and _integer_input(graph, layer) is not None:
            break
        if layer.op == "Conv" and _image_shape(graph.shapes[tensor]) != shape:
            break
    return LayerStep(tuple(layers), gate, quantization, source, tensor), outputs


def _shapes(layer: Node, chain: _Chain) -> dict[str, object]:
    """Return the arguments of a fused layer that don't depend on its precision."""
    if layer.op == "Linear":
        return {"kind": "linear", "output_shape": layer.shape, "pool": None, "relu": chain.relu, "name": layer.name}
    channels, height, width = _image_shape(layer.shape)
    if chain.pool:
        height, width = height // chain.pool[0], width // chain.pool[1]
    window = layer.attributes["window"]
    return {
        "kind": "conv",
        "output_shape": (channels, height, width),
        "pool": chain.pool,
        "relu": chain.relu,
        "name": layer.name,
        "stride": window.stride,
        "padding": window.padding,
        "dilation": window.dilation,
        "groups": layer.attributes["groups"],
    }


def _float_layer(layer: Node, chain: _Chain, shape: tuple[int, ...], active: float) -> FloatLayer:
    weight = layer.attributes["weight"]
    scale = chain.scale.reshape(-1, *[1] * (weight.ndim - 1))
    weight = np.ascontiguousarray((weight * scale).astype(np.float32))
    bias = chain.shift.astype(np.float32)
    return FloatLayer(weight=weight, bias=bias, input_shape=shape, active=active, **_shapes(layer, chain))


def _integer_layer(
    layer: Node, chain: _Chain, shape: tuple[int, ...], grid: Grid, out: Grid | None, active: float
) -> IntegerLayer:
    weight, weight_scale = layer.attributes["quantized"]
    out_scale, out_zero_point = (float(out.scale), _unsigned(out)) if out else (1.0, 0)
    multiplier = float(grid.scale) * weight_scale.astype(np.float64) * chain.scale / out_scale
    return IntegerLayer(
        weight=weight,
        multiplier=multiplier.astype(np.float32),
        offset=(chain.shift / out_scale + out_zero_point).astype(np.float32),
        input_zero_point=_unsigned(grid),
        output_zero_point=out_zero_point,
        output_float=out is None,
        input_shape=shape,
        active=active,
        winners=chain.winners,
        **_shapes(layer, chain),
    )

"""From a graph to steps: sequences of fused layers, which our kernels run, and parts that ONNX Runtime runs."""

import math
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import numpy_helper

from dualsparse.graph import Graph, Node, samples_of
from dualsparse.layers import ColumnGate, FloatLayer, InputQuantization, IntegerLayer
from dualsparse.onnx_import import node_reads
from dualsparse.operators import Grid


@dataclass(frozen=True, eq=False)
class LayerStep:
    """Consecutive fused layers, all in float32 or all in 8-bit integers. Float32 goes in and comes out."""

    layers: tuple[FloatLayer | IntegerLayer, ...]
    gate: ColumnGate | None
    quantization: InputQuantization | None  # None for float layers
    input: str
    output: str
    samples: int
    nodes: tuple[str, ...]  # the outputs of the Conv and Linear nodes that became the layers

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, eq=False)
class OperatorStep:
    """KWinners or a ColumnGate that is part of no sequence of layers."""

    node: Node
    inputs: tuple[str, ...]  # those of the node, before reshapes

    @property
    def output(self) -> str:
        return self.node.output

    @property
    def samples(self) -> int:
        return self.node.shape[0]


@dataclass(frozen=True, eq=False)
class RuntimeStep:
    """What ONNX Runtime runs at once.

    `model` is None if this is the file as a whole, whose inputs and outputs are then the step's.
    """

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model: onnx.ModelProto | None


@dataclass(frozen=True, eq=False)
class Plan:
    """What an engine executes, in order, for arrays of fixed shapes."""

    graph: Graph
    steps: tuple[LayerStep | OperatorStep | RuntimeStep, ...]
    #: By the names of the graph's outputs, those of the values that the steps leave for them.
    outputs: dict[str, str]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return the shape of a float32 tensor that goes into or out of layers."""
        return self.graph.shape(tensor)


def make_plan(graph: Graph, given_away: Set[str] = frozenset()) -> Plan:
    """Divide a graph.

    Args:
        given_away: outputs of the Conv and Linear nodes that ONNX Runtime is to run, though layers could be made of
            them.
    """
    steps: list[LayerStep | OperatorStep] = []
    absorbed: set[str] = set()  # outputs of nodes that are part of a LayerStep
    for node in graph.nodes:
        if node.op in ("Conv", "Linear") and node.output not in absorbed | given_away:
            step, outputs = _sequence(graph, node, given_away)
            steps.append(step)
            absorbed.update(outputs)
        elif node.op in ("KWinners", "ColumnGate") and node.output not in absorbed:
            steps.append(OperatorStep(node, tuple(graph.origin(name) for name in node.inputs)))
    if graph.model.graph.sparse_initializer or any(name in graph.constants for name in graph.outputs):
        return whole(graph)
    return _divide(graph, steps)


def _divide(graph: Graph, own: list[LayerStep | OperatorStep]) -> Plan:
    """Put steps and the rest of the graph, in as few parts as possible, in order. Only what is needed is run.

    Part k of the rest is what needs the results of k steps one behind the other.
    """
    file = _Nodes(list(graph.model.graph.node))
    steps = {step.output: step for step in own}
    outputs = {name: graph.resolve(name) if graph.resolve(name) in steps else name for name in graph.outputs}
    # By the place in the file of what they make: steps and nodes that are needed.
    needed: dict[int, LayerStep | OperatorStep | onnx.NodeProto] = {}
    waiting = list(outputs.values())
    while waiting:
        name = waiting.pop()
        place = file.maker.get(name)
        if place is not None and place not in needed and name not in graph.constants:
            needed[place] = item = steps.get(name, file.nodes[place])
            waiting += item.inputs if name in steps else node_reads(item)
    levels: dict[int, int] = {}  # of the needed, by place
    depth: dict[str, int] = {}
    for place, item in sorted(needed.items()):
        own_step = not isinstance(item, onnx.NodeProto)
        names = item.inputs if own_step else node_reads(item)
        levels[place] = level = max((depth.get(name, 0) for name in names), default=0)
        depth.update({item.output: level + 1} if own_step else dict.fromkeys(item.output, level))
    _postpone(file, needed, levels)
    parts: dict[int, list[int]] = {}
    ready: dict[int, list[LayerStep | OperatorStep]] = {}
    for place, item in sorted(needed.items()):
        if isinstance(item, onnx.NodeProto):
            parts.setdefault(levels[place], []).append(place)
        else:
            ready.setdefault(levels[place], []).append(item)
    # By name, the parts that read a tensor; -1 stands for steps, and for whoever reads the outputs.
    readers: dict[str, set[int]] = {name: {-1} for name in outputs.values()}
    for place, item in needed.items():
        is_node = isinstance(item, onnx.NodeProto)
        for name in node_reads(item) if is_node else item.inputs:
            readers.setdefault(name, set()).add(levels[place] if is_node else -1)
    result: list[LayerStep | OperatorStep | RuntimeStep] = []
    for level in range(max([*parts, *ready], default=-1) + 1):
        if level in parts:
            made = [name for place in parts[level] for name in file.nodes[place].output if name]
            part = _part(graph, file, parts[level], [name for name in made if readers.get(name, set()) - {level}])
            if part is None:
                return whole(graph)
            result.append(part)
        result += ready.get(level, [])
    return Plan(graph, tuple(result), outputs) if ready else whole(graph)


def _postpone(
    file: "_Nodes", needed: dict[int, LayerStep | OperatorStep | onnx.NodeProto], levels: dict[int, int]
) -> None:
    """Move nodes to the last part in which they may be, so that there are fewer parts."""
    last = max(levels.values(), default=0)
    latest: dict[int, int] = {}
    sizes = Counter(levels[place] for place, item in needed.items() if isinstance(item, onnx.NodeProto))
    for place, item in sorted(needed.items(), reverse=True):
        if isinstance(item, onnx.NodeProto):
            sizes[levels[place]] -= 1
            possible = range(latest.get(place, last), levels[place], -1)
            levels[place] = next((level for level in possible if sizes[level]), levels[place])
            sizes[levels[place]] += 1
        for name in node_reads(item) if isinstance(item, onnx.NodeProto) else item.inputs:
            if name in file.maker:
                latest[file.maker[name]] = min(latest.get(file.maker[name], last), levels[place])


class _Nodes:
    """The nodes of a file, and which of them makes a tensor."""

    def __init__(self, nodes: list[onnx.NodeProto]) -> None:
        self.nodes = nodes
        self.maker = {name: place for place, node in enumerate(nodes) for name in node.output if name}


def whole(graph: Graph) -> Plan:
    """Return the plan that leaves all to ONNX Runtime."""
    step = RuntimeStep(tuple(graph.model.graph.node), tuple(graph.inputs), tuple(graph.outputs), None)
    return Plan(graph, (step,), {name: name for name in graph.outputs})


#: A part with larger constants can't be handed over as one message.
LARGEST_PART = 1 << 30


def _part(graph: Graph, file: _Nodes, places: list[int], outputs: list[str]) -> RuntimeStep | None:
    """Make a model of some nodes, of which `outputs` are read elsewhere; None if ONNX can't say one."""
    model, nodes = graph.model, [file.nodes[place] for place in places]
    made = {name for node in nodes for name in node.output if name}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    constants: dict[str, onnx.TensorProto] = {}
    before: set[int] = set()
    inputs: list[str] = []
    waiting = [name for node in nodes for name in node_reads(node) if name and name not in made]
    while waiting:
        name = waiting.pop()
        if name in stored:
            constants[name] = stored[name]
        elif name in graph.shape_constants:
            constants[name] = numpy_helper.from_array(graph.constants[name], name)
        elif name in graph.constants:
            # ONNX Runtime folds constants by itself, and knows best which ones to leave in integers.
            before.add(file.maker[name])
            waiting += [other for other in file.nodes[file.maker[name]].input if other]
        elif name not in inputs:
            inputs.append(name)
    types = [graph.types.get(name) for name in [*inputs, *outputs]]
    unknown = any(type_ is None or not type_.ByteSize() for type_ in types)
    if unknown or sum(tensor.ByteSize() for tensor in constants.values()) > LARGEST_PART:
        return None
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "part"
    part.graph.node.extend([file.nodes[place] for place in sorted(before)] + nodes)
    part.graph.initializer.extend(constants.values())
    part.graph.input.extend(onnx.ValueInfoProto(name=name, type=graph.types[name]) for name in inputs)
    part.graph.output.extend(onnx.ValueInfoProto(name=name, type=graph.types[name]) for name in outputs)
    return RuntimeStep(tuple(nodes), tuple(inputs), tuple(outputs), part)


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


def _extend(
    graph: Graph, chain: _Chain, node: Node, layer: Node, gate_input: str | None, integer: bool
) -> _Chain | None:
    """Return `chain` with `node` fused behind it; None if it can't be."""
    attributes = node.attributes
    new = replace(chain, tensor=node.output, outputs=(*chain.outputs, node.output))
    if node.op == "View":
        return replace(new, viewed=True)
    if node.op == "FakeQuantize":
        return replace(new, grids=(*chain.grids, attributes["grid"]), ends_quantized=True) if integer else None
    new = replace(new, ends_quantized=False)
    if node.op == "Relu":
        return replace(new, relu=True)
    if chain.viewed or chain.gate is not None or chain.winners is not None:
        return None
    if node.op == "KWinners" and integer and node.shape[0] == samples_of(layer):
        return replace(new, winners=node.attributes["k"])
    if node.op == "Affine" and not chain.relu and not chain.grids:
        scale, shift = attributes["scale"], attributes["shift"]
        if attributes["axis"] not in (None, 1 if layer.op == "Conv" else len(node.shape) - 1):
            return None
        # Max-pool may run before a factor only if the factor keeps the order; integers are always pooled first.
        if (scale > 0).all() or (chain.pool is None and not integer):
            return replace(new, scale=chain.scale * scale, shift=chain.shift * scale + shift)
    if node.op == "MaxPool" and chain.pool is None and layer.op == "Conv":
        window = attributes["window"]
        plain = window.kernel == window.stride and not any(window.padding) and window.dilation == (1, 1)
        if plain and not window.ceil_mode:
            return replace(new, pool=window.kernel)
    if node.op == "ColumnGate" and layer.op == "Conv" and node.inputs == [chain.tensor, gate_input]:
        return replace(new, gate=node)
    return None


def _chains(graph: Graph, layer: Node, gate_input: str | None, integer: bool) -> list[_Chain]:
    """Return the chain behind `layer` after each operator that fuses, the bare layer first."""
    outputs = len(layer.attributes["weight"])
    bias = layer.attributes["bias"].astype(np.float64)
    chain = _Chain(layer.output, (layer.output,), np.ones(outputs), bias)
    chains = [chain]
    while (node := graph.sole_consumer(chain.tensor)) is not None:
        extended = _extend(graph, chain, node, layer, gate_input, integer)
        if extended is None:
            break
        chain = extended
        chains.append(chain)
    return chains


def integer_input(graph: Graph, layer: Node) -> tuple[str, Grid] | None:
    """Return the float tensor and the grid that an integer layer reads; None if it has to run in float32."""
    if layer.attributes["quantized"] is None:
        return None
    node = graph.producer(layer.inputs[0])
    while node is not None and node.op == "View" and layer.op == "Linear":
        node = graph.producer(node.inputs[0])
    if node is None or node.op != "FakeQuantize":
        return None
    weight = layer.attributes["quantized"][0]
    largest = 255 * np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1).max(initial=0)
    return None if largest >= 1 << 31 else (node.inputs[0], node.attributes["grid"])


def _unsigned(grid: Grid) -> int:
    """Return the zero point of `grid` shifted to integers from 0 to 255."""
    return grid.zero_point - grid.lowest


def _cut(graph: Graph, chains: list[_Chain], layer: Node, given_away: Set[str]) -> tuple[_Chain, Grid | None]:
    """Choose where a chain of integer arithmetic ends, and the grid of its output (None: float32).

    Quantisations inside the chain are left out, so that a value is rounded once where the file rounds it repeatedly;
    that is allowed only if they don't clip what the chain's last quantisation keeps.
    """
    full = chains[-1]
    following = _following(graph, layer, full, given_away)
    goes_on = following is not None and integer_input(graph, following) is not None
    if goes_on and full.ends_quantized and _clips_nothing(full):
        return _rectified(full, full.grids), full.grids[-1]
    # Winners are chosen among integers only.
    chains = [chain for chain in chains if chain.winners is None]
    full = chains[-1]
    if full.ends_quantized and _clips_nothing(full):
        if graph.is_output(full.tensor):
            return _rectified(full, full.grids), None
        before = next(chain for chain in reversed(chains) if len(chain.grids) < len(full.grids))
        return _rectified(before, full.grids[:-1]), None
    return next(chain for chain in reversed(chains) if not chain.grids), None


def _following(graph: Graph, layer: Node, chain: _Chain, given_away: Set[str]) -> Node | None:
    """Return the layer that may come next in a sequence: nothing else reads what `chain` makes of `layer`."""
    node = graph.sole_consumer(chain.tensor)
    if node is None or node.op not in ("Conv", "Linear") or node.output in given_away:
        return None
    if node.op == "Conv" and _image_shape(graph.shape(chain.tensor)[1:]) != _shapes(layer, chain)["output_shape"]:
        return None
    return node if samples_of(node) == samples_of(layer) else None


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
        return node.attributes["k"] / math.prod(node.shape[1:])
    if node is not None and node.op == "ColumnGate":
        settings, columns = node.attributes, node.shape[3]
        computed = min(settings["keep"] * (2 if settings["pair"] else 1), columns)
        return computed / columns * _active_share(graph, node.inputs[0])
    # One positive value is enough for a pool.
    return (0.75 if pooled else 0.5) if rectified else 1.0


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape [C, H, W] of a 1-D sample [C, W]; others stay."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def _input_shape(graph: Graph, node: Node, source: str) -> tuple[int, ...]:
    """Return the shape of one sample of a layer's input, of a matrix product before its flatten."""
    samples, *shape = graph.shape(source)
    if node.op == "Conv":
        return _image_shape(tuple(shape))
    inputs = node.attributes["weight"].shape[1]
    return tuple(shape) if (samples, math.prod(shape)) == (samples_of(node), inputs) else (inputs,)


def _sequence(graph: Graph, node: Node, given_away: Set[str]) -> tuple[LayerStep, set[str]]:
    """Fuse the longest sequence of layers that begins at `node`; return it and the outputs of the nodes in it."""
    quantized_input = integer_input(graph, node)
    source, grid = quantized_input or (node.inputs[0], None)
    quantization = InputQuantization(float(grid.scale), _unsigned(grid)) if grid else None
    layers: list[FloatLayer | IntegerLayer] = []
    nodes: list[str] = []
    outputs: set[str] = set()
    gate: ColumnGate | None = None
    shape = _input_shape(graph, node, source)
    layer: Node | None = node
    while layer is not None:
        # Only integer programs leave columns out; between float layers a gate is an operator of its own.
        gate_input = source if gate is None and quantization is not None else None
        chains = _chains(graph, layer, gate_input, quantization is not None)
        active = _active_share(graph, layer.inputs[0])
        if quantization is None:
            chain, next_grid = chains[-1], None
            layers.append(_float_layer(layer, chain, shape, active))
        else:
            chain, next_grid = _cut(graph, chains, layer, given_away)
            layers.append(_integer_layer(layer, chain, shape, grid, next_grid, active))
        nodes.append(layer.output)
        outputs.update(chain.outputs)
        if chain.gate is not None:
            gate = ColumnGate(columns=chain.gate.shape[3], layer_index=len(layers) - 1, **chain.gate.attributes)
        tensor, shape, grid = chain.tensor, layers[-1].output_shape, next_grid
        layer = _following(graph, layer, chain, given_away)
        if layer is None or (quantization is not None and next_grid is None):
            break
        if quantization is None and integer_input(graph, layer) is not None:
            break
    step = LayerStep(tuple(layers), gate, quantization, graph.origin(source), tensor, samples_of(node), tuple(nodes))
    return step, outputs


def _shapes(layer: Node, chain: _Chain) -> dict[str, object]:
    """Return the arguments of a fused layer that don't depend on its precision."""
    common = {"pool": chain.pool, "relu": chain.relu, "name": layer.name}
    if layer.op == "Linear":
        return {"kind": "linear", "output_shape": layer.shape[-1:], **common}
    channels, height, width = _image_shape(layer.shape[1:])
    if chain.pool:
        height, width = height // chain.pool[0], width // chain.pool[1]
    window = layer.attributes["window"]
    return {
        "kind": "conv",
        "output_shape": (channels, height, width),
        **common,
        "stride": window.stride,
        "padding": window.padding,
        "dilation": window.dilation,
        "groups": layer.attributes["groups"],
    }


def _float_layer(layer: Node, chain: _Chain, shape: tuple[int, ...], active: float) -> FloatLayer:
    weight = layer.attributes["weight"]
    if (chain.scale != 1).any():
        weight = (weight * chain.scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
    weight = np.ascontiguousarray(weight)
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

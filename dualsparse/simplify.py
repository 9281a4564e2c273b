"""Rewrites of an imported graph that leave its results unchanged, or (gates) what it was trained to compute.

They undo how exporters and quantisers spell things: a k-winners activation as TopK, comparison and product; a
quantisation of values that lie on the same grid already.
"""

import numpy as np

from dualsparse.graph import Graph, Node
from dualsparse.operators import OPERATORS, choose_columns

#: Operators whose outputs are a selection of their inputs: values on a grid stay on it.
SELECTIONS = ("View", "MaxPool", "TopK", "Slice", "Gather", "ReduceMin", "ReduceMax")


def simplify(graph: Graph) -> None:
    """Rewrite `graph` in place."""
    _drop_identities(graph)
    _drop_repeated_quantisation(graph)
    _fuse_column_gates(graph)
    _fuse_k_winners(graph)
    graph.drop_dead_nodes()


def _drop_identities(graph: Graph) -> None:
    for node in list(graph.nodes):
        if (
            node.op == "Affine"
            and node.output != graph.output
            and (node.attributes["scale"] == 1).all()
            and (node.attributes["shift"] == 0).all()
        ):
            graph.bypass(node)


def _drop_repeated_quantisation(graph: Graph) -> None:
    """Drop a FakeQuantize of values on its own grid, and one of a mask of 0 and 1 that both lie on its grid."""
    producers = {node.output: node for node in graph.nodes}
    for node in list(graph.nodes):
        if node.op != "FakeQuantize" or node.output == graph.output:
            continue
        grid = node.attributes["grid"]
        source = producers.get(node.inputs[0])
        while source is not None and source.op in SELECTIONS:
            source = producers.get(source.inputs[0])
        if source is None:
            continue
        same_grid = source.op == "FakeQuantize" and source.attributes["grid"] == grid
        one = (
            np.clip(np.rint(1 / grid.scale) + grid.zero_point, grid.lowest, grid.highest) - grid.zero_point
        ) * grid.scale
        mask = source.op == "Cast" and grid.lowest <= grid.zero_point <= grid.highest and abs(one - 1) < 1e-6
        if same_grid or mask:
            graph.bypass(node)
            producers = {other.output: other for other in graph.nodes}


def _through(graph: Graph, tensor: str, *ops: str) -> Node | None:
    """Return the producer of `tensor`, looking through nodes of the kinds `ops`."""
    node = graph.producer(tensor)
    while node is not None and node.op in ops:
        node = graph.producer(node.inputs[0])
    return node


def _threshold_of(graph: Graph, mask: str) -> tuple[str, Node] | None:
    """Return x and the TopK of a mask Cast(x >= the last of TopK(x')); None if it is anything else."""
    cast = graph.producer(mask)
    compare = graph.producer(cast.inputs[0]) if cast is not None and cast.op == "Cast" else None
    if compare is None or compare.op != "GreaterOrEqual" or len(compare.inputs) != 2:
        return None
    last = _through(graph, compare.inputs[1], "View")
    if last is None or last.op not in ("Slice", "Gather", "ReduceMin"):
        return None
    top_k = graph.producer(last.inputs[0])
    if top_k is None or top_k.op != "TopK" or not top_k.attributes["largest"]:
        return None
    axis, k = top_k.attributes["axis"], top_k.attributes["k"]
    if last.op == "Slice":
        # The last of the k values, whatever way the slice says so.
        index = np.arange(k)[last.attributes["slices"][axis - 1]]
        others = [s for i, s in enumerate(last.attributes["slices"]) if i != axis - 1]
        found = index.tolist() == [k - 1] and all(s == slice(None) for s in others)
    elif last.op == "Gather":
        found = last.attributes["axis"] == axis and last.attributes["indices"].reshape(-1).tolist() in ([-1], [k - 1])
    else:
        found = last.attributes["axes"] == (axis,)
    return (compare.inputs[0], top_k) if found else None


def _fuse_k_winners(graph: Graph) -> None:
    """Write x * (x >= the k-th largest of all values of x) as one KWinners."""
    for node in list(graph.nodes):
        if node.op != "Mul" or len(node.inputs) != 2:
            continue
        for x, mask in (node.inputs, node.inputs[::-1]):
            match = _threshold_of(graph, mask)
            if match is None:
                continue
            compared, top_k = match
            ranked = top_k.inputs[0]
            same = all(_origin(graph, tensor) == _origin(graph, x) for tensor in (compared, ranked))
            if same and len(graph.shapes[ranked]) == 1 and graph.shapes[compared] in (graph.shapes[x],):
                node.op, node.inputs, node.attributes = "KWinners", [x], {"k": top_k.attributes["k"]}
                break


def _origin(graph: Graph, tensor: str) -> str:
    """Return the tensor behind reshapes."""
    node = graph.producer(tensor)
    return _origin(graph, node.inputs[0]) if node is not None and node.op == "View" else tensor


def _fuse_column_gates(graph: Graph) -> None:
    """Write x * (a mask of columns, from the energies of the input's columns) as one ColumnGate.

    A quantised file may round the energies to 8 bits on their way, which makes ties and keeps other columns than the
    network was trained with; the gate is taken from the float32 input, as in the float network.
    """
    for node in list(graph.nodes):
        if node.op != "Mul" or len(node.inputs) != 2:
            continue
        for x, mask in (node.inputs, node.inputs[::-1]):
            gate = _column_gate(graph, mask, graph.shapes[x])
            if gate is not None:
                node.op, node.inputs, node.attributes = "ColumnGate", [x, graph.input], gate
                break


#: Operators that compare and move values. What they make of some numbers depends on the order of these alone.
COMPARISONS = (
    "View",
    "TopK",
    "Slice",
    "Gather",
    "Concat",
    "Max",
    "Min",
    "GreaterOrEqual",
    "Cast",
    "ReduceMin",
    "ReduceMax",
)


def _column_gate(graph: Graph, mask: str, shape: tuple[int, ...]) -> dict[str, object] | None:
    """Return the settings of the ColumnGate that `mask` is for an activation of `shape`; None if it isn't one.

    Exporters spell a gate in many ways, so the mask is not read but tried out: on every order, with every tie, that a
    few energies can have, it has to keep what a gate keeps (for many columns, on some thousand orders).
    """
    cone = _comparisons_behind(graph, mask)
    if cone is None or len(shape) != 3 or graph.shapes[mask] != (1, 1, shape[2]):
        return None
    pool, nodes = cone
    window, input_shape = pool.attributes["window"], graph.shapes[graph.input]
    maker = graph.producer(pool.inputs[0])
    source = maker.inputs[0] if maker is not None and maker.op == "FakeQuantize" else pool.inputs[0]
    whole_columns = window.kernel[0] == input_shape[1] and not any(window.padding) and window.dilation == (1, 1)
    if source != graph.input or not whole_columns or input_shape[0] != 1 or pool.shape != (1, 1, shape[2]):
        return None
    columns = shape[2]
    if columns <= 5:
        orders = np.indices((columns,) * columns, np.float32).reshape(columns, -1).T
    else:
        orders = np.random.default_rng(0).integers(0, columns, (5000, columns)).astype(np.float32)
    values = {pool.output: orders[:, np.newaxis, np.newaxis]}
    for node in nodes:
        arrays = [values[name] for name in node.inputs]
        values[node.output] = arrays[0] if node.op == "FakeQuantize" else OPERATORS[node.op](arrays, node.attributes)
    found = values[mask][:, 0, 0]
    for pair, most in ((False, columns), (True, columns - 2)):
        for keep in range(1, most + 1):
            if np.array_equal(found, choose_columns(orders, keep, pair)):
                settings = {"kernel_width": window.kernel[1], "stride_width": window.stride[1]}
                return {**settings, "keep": keep, "pair": pair}
    return None


def _comparisons_behind(graph: Graph, mask: str) -> tuple[Node, list[Node]] | None:
    """Return the one AveragePool that `mask` is computed from, and the nodes between, if those only compare."""
    nodes, pools, needed = [], [], {mask}
    for node in reversed(graph.nodes):
        if node.output not in needed:
            continue
        if node.op == "AveragePool":
            pools.append(node)
        elif node.op == "FakeQuantize" or (node.op in COMPARISONS and node.attributes.get("constant") is None):
            nodes.append(node)
            needed.update(node.inputs)
        else:
            return None
    return (pools[0], nodes[::-1]) if len(pools) == 1 and graph.input not in needed else None

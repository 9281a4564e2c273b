"""Rewrites of an imported graph that leave its results unchanged, or (gates) what it was trained to compute.

They undo how exporters and quantisers spell things: a k-winners activation as TopK, comparison and product; a
quantisation of values that lie on the same grid already.
"""

import numpy as np

from dualsparse.graph import Graph, Node

#: Operators whose outputs are a selection of their inputs: values on a grid stay on it.
SELECTIONS = ("View", "MaxPool", "TopK", "Slice", "Gather", "KWinners", "ReduceMin", "ReduceMax")


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


def _threshold_of(graph: Graph, mask: str, *transparent: str) -> tuple[str, Node] | None:
    """Return x and the TopK of a mask Cast(x >= the last of TopK(x')); None if it is anything else."""
    cast = _through(graph, mask, *transparent)
    compare = graph.producer(cast.inputs[0]) if cast is not None and cast.op == "Cast" else None
    if compare is None or compare.op != "GreaterOrEqual" or len(compare.inputs) != 2:
        return None
    last = _through(graph, compare.inputs[1], "View", *transparent)
    if last is None or last.op not in ("Slice", "Gather", "ReduceMin"):
        return None
    top_k = _through(graph, last.inputs[0], *transparent)
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
    """Write x * (column energy of the input >= its k-th largest), as a column gate is exported, as one ColumnGate.

    A quantised file may round the energies to 8 bits on their way, which makes ties and keeps other columns than the
    network was trained with; the gate is taken from the float32 input, as in the float network.
    """
    for node in list(graph.nodes):
        if node.op != "Mul" or len(node.inputs) != 2:
            continue
        for x, mask in (node.inputs, node.inputs[::-1]):
            match = _threshold_of(graph, mask, "FakeQuantize")
            if match is None:
                continue
            compared, top_k = match
            pool = _through(graph, compared, "FakeQuantize")
            if pool is None or pool is not _through(graph, top_k.inputs[0], "FakeQuantize") or pool.op != "AveragePool":
                continue
            source = pool.inputs[0]
            maker = graph.producer(source)
            if maker is not None and maker.op == "FakeQuantize":
                source = maker.inputs[0]
            window, input_shape, shape = pool.attributes["window"], graph.shapes[source], graph.shapes[x]
            columns = (
                window.kernel[0] == input_shape[1] and not any(window.padding) and window.dilation == (1, 1)
            ) and (len(shape) == 3 and pool.shape == (1, 1, shape[2]) and input_shape[0] == 1)
            if source == graph.input and columns and top_k.attributes["axis"] == 3:
                node.op, node.inputs = "ColumnGate", [x, source]
                node.attributes = {
                    "kernel_width": window.kernel[1],
                    "stride_width": window.stride[1],
                    "keep": top_k.attributes["k"],
                }
                break

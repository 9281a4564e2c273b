"""Rewrites of an imported graph that leave its results unchanged, or (gates) what it was trained to compute.

They undo how exporters and quantisers spell things: k-winners and column gates as sorting, comparisons and products;
a quantisation of values that lie on the same grid already.
"""

from collections.abc import Callable

import numpy as np

from dualsparse.graph import Graph, Node
from dualsparse.operators import choose_columns

#: Operators whose outputs are a selection of their inputs: values on a grid stay on it. A max-pool is none of them: a
#: layer behind it looks for the grid there.
SELECTIONS = ("View", "onnx.TopK", "onnx.Slice", "onnx.Gather", "onnx.ReduceMin", "onnx.ReduceMax")
#: Operators that compare and move values. What they make of some numbers depends on the order of these alone.
COMPARISONS = {"View", *(f"onnx.{name}" for name in ("TopK", "Slice", "Split", "Gather", "Concat", "Max", "Min"))}
COMPARISONS |= {f"onnx.{name}" for name in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Cast")}
COMPARISONS |= {f"onnx.{name}" for name in ("ReduceMin", "ReduceMax", "Not", "Transpose", "Expand")}
#: The most values for which a mask is tried out.
LARGEST_TRIAL = 1 << 24


def simplify(graph: Graph) -> None:
    """Rewrite `graph` in place."""
    _drop_identities(graph)
    _drop_repeated_quantisation(graph)
    for node in graph.nodes:
        if node.op == "onnx.Mul" and len(node.inputs) == 2 and node.shape is not None:
            for x, mask in (node.inputs, node.inputs[::-1]):
                found = _column_gate(graph, x, mask) or _k_winners(graph, x, mask)
                if found is not None:
                    node.op, node.inputs, node.attributes = found
                    break
    graph.drop_dead_nodes()


def _drop_identities(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "Affine" and not graph.is_output(node.output):
            scale, shift = node.attributes["scale"], node.attributes["shift"]
            if (scale == 1).all() and (shift == 0).all():
                graph.bypass(node)


def _drop_repeated_quantisation(graph: Graph) -> None:
    """Drop a FakeQuantize of values on its own grid, and one of a mask of 0 and 1 that both lie on its grid."""
    for node in list(graph.nodes):
        if node.op != "FakeQuantize" or graph.is_output(node.output):
            continue
        grid = node.attributes["grid"]
        source = graph.producer(node.inputs[0])
        while source is not None and source.op in SELECTIONS:
            source = graph.producer(source.inputs[0])
        if source is None:
            continue
        same_grid = source.op == "FakeQuantize" and source.attributes["grid"] == grid
        one = (
            np.clip(np.rint(1 / grid.scale) + grid.zero_point, grid.lowest, grid.highest) - grid.zero_point
        ) * grid.scale
        mask = source.op == "onnx.Cast" and grid.lowest <= grid.zero_point <= grid.highest and abs(one - 1) < 1e-6
        if same_grid or (mask and graph.is_bool(source.inputs[0])):
            graph.bypass(node)


def _comparisons_behind(graph: Graph, mask: str, leaf: str, passing: tuple[str, ...] = ()) -> list[Node] | None:
    """Return the nodes that compute `mask` from `leaf` alone; None if there are others than comparisons."""
    nodes, needed = [], {mask}
    for node in reversed(graph.nodes):
        made = needed & set(node.outputs)
        if not made or made == {leaf}:
            continue
        if node.op not in passing and not _compares(graph, node):
            return None
        nodes.append(node)
        needed.update(node.inputs)
    reads_more = needed - {leaf} - {name for node in nodes for name in node.outputs}
    return None if reads_more or leaf not in needed else nodes[::-1]


def _compares(graph: Graph, node: Node) -> bool:
    """Tell whether a node's outputs depend on the order of its inputs alone: nothing is compared with a constant."""
    numbers = [name for name in node.proto.input if name in graph.constants and graph.constants[name].dtype.kind == "f"]
    return node.op in COMPARISONS and not numbers and (node.op != "onnx.Cast" or graph.is_bool(node.inputs[0]))


def _tried(graph: Graph, nodes: list[Node], leaf: str, mask: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that computes `mask` [n, ...] from values [n, ...] for `leaf`, for any number n."""
    evaluator, shape = graph.evaluator(nodes, [leaf], mask), graph.shape(leaf)

    def mask_of(values: np.ndarray) -> np.ndarray:
        # The file is made for batches of one size.
        missing = np.zeros((-len(values) % shape[0], *values.shape[1:]), np.float32)
        batches = np.concatenate([values, missing]).reshape(-1, *shape)
        return np.concatenate([evaluator.run([mask], {leaf: batch})[0] for batch in batches])[: len(values)]

    return mask_of


def _column_gate(graph: Graph, x: str, mask: str) -> tuple[str, list[str], dict[str, object]] | None:
    """Return the ColumnGate that `mask` is for the activation `x`; None if it isn't one.

    Exporters spell a gate in many ways, so the mask is not read but tried out: on every order, with every tie, that a
    few energies can have, it has to keep what a gate keeps (for many columns, on some thousand orders).

    A quantised file may round the energies to 8 bits on their way, which makes ties and keeps other columns than the
    network was trained with; the gate is taken from the float32 input, as in the float network.
    """
    shape, mask_shape = graph.shape(x), graph.shape(mask)
    for pool in graph.nodes:
        if pool.op != "AveragePool" or shape is None or len(shape) != 4 or pool.shape != (shape[0], 1, 1, shape[3]):
            continue
        maker = graph.producer(pool.inputs[0])
        source = maker.inputs[0] if maker is not None and maker.op == "FakeQuantize" else pool.inputs[0]
        window, input_shape = pool.attributes["window"], graph.shape(source)
        whole_columns = window.kernel[0] == input_shape[2] and not any(window.padding) and not window.ceil_mode
        if source not in graph.inputs or not whole_columns or input_shape[1] != 1 or window.dilation != (1, 1):
            continue
        nodes = _comparisons_behind(graph, mask, pool.output, ("FakeQuantize",))
        if nodes is None or mask_shape != pool.shape:
            continue
        columns = shape[3]
        if columns <= 5:
            orders = np.indices((columns,) * columns, np.float32).reshape(columns, -1).T
            # Of the energies that come in the same order, one is enough.
            orders = np.unique([np.unique(row, return_inverse=True)[1] for row in orders], axis=0).astype(np.float32)
        else:
            orders = np.random.default_rng(0).integers(0, columns, (5000, columns)).astype(np.float32)
        try:
            found = _tried(graph, nodes, pool.output, mask)(orders[:, np.newaxis, np.newaxis])[:, 0, 0]
        except Exception:  # whatever ONNX's reference raises: it can't run this mask
            continue
        for pair, most in ((False, columns), (True, columns - 2)):
            for keep in range(1, most + 1):
                if np.array_equal(found, choose_columns(orders, keep, pair)):
                    settings = {"kernel_width": window.kernel[1], "stride_width": window.stride[1]}
                    return "ColumnGate", [x, source], {**settings, "keep": keep, "pair": pair}
    return None


def _k_winners(graph: Graph, x: str, mask: str) -> tuple[str, list[str], dict[str, object]] | None:
    """Return the KWinners that x * `mask` is: the mask keeps what is at least the k-th largest of a sample.

    Tried out like a gate, on values in random order, with and without ties.
    """
    leaf = graph.origin(x)
    nodes, shape = _comparisons_behind(graph, mask, leaf), graph.shape(leaf)
    if nodes is None or graph.shape(mask) != graph.shape(x) or shape[0] != graph.shape(x)[0]:
        return None
    units = int(np.prod(shape[1:]))
    if shape[0] * units > LARGEST_TRIAL or not any(node.op == "onnx.TopK" for node in nodes):
        return None
    rng, mask_of = np.random.default_rng(0), _tried(graph, nodes, leaf, mask)
    k = None
    for values in (rng.permutation(shape[0] * units), rng.integers(-3, 4, shape[0] * units)):
        values = values.reshape(shape).astype(np.float32)
        try:
            found = mask_of(values).reshape(shape[0], units)
        except Exception:  # as above
            return None
        if k is None:
            k = int(found[0].sum())
        flat = values.reshape(shape[0], units)
        if not 1 <= k <= units or not np.array_equal(found, flat >= np.sort(flat, axis=1)[:, -k, np.newaxis]):
            return None
    return "KWinners", [x], {"k": k}

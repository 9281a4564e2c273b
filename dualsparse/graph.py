"""The engine's own form of a network: nodes on activations, constants inside the nodes, one shape per sample.

Samples of a batch never mix, so no shape here has a batch axis: every node works on arrays [n, *shape] of any n.
"""

from dataclasses import dataclass
from typing import Any


@dataclass
class Node:
    """One operator. What it needs beside its activations (weights, bias, window, axis) is in `attributes`."""

    name: str
    op: str  # a key of `operators.OPERATORS`
    inputs: list[str]  # activations only
    output: str
    attributes: dict[str, Any]
    shape: tuple[int, ...]  # of one sample of the output


@dataclass
class Graph:
    """A network of one input and one output; `nodes` are in the order of the data flow."""

    input: str
    output: str
    nodes: list[Node]
    shapes: dict[str, tuple[int, ...]]  # of one sample, per activation
    batch_size: int

    def producer(self, tensor: str) -> Node | None:
        """Return the node that makes `tensor`; None for the graph's input."""
        return next((node for node in self.nodes if node.output == tensor), None)

    def consumers(self, tensor: str) -> list[Node]:
        """Return the nodes that read `tensor`."""
        return [node for node in self.nodes if tensor in node.inputs]

    def sole_consumer(self, tensor: str) -> Node | None:
        """Return the only reader of `tensor`; None if there are several or if `tensor` is the graph's output."""
        consumers = self.consumers(tensor)
        if tensor == self.output or len(consumers) != 1 or consumers[0].inputs.count(tensor) != 1:
            return None
        return consumers[0]

    def bypass(self, node: Node) -> None:
        """Remove a node of one input: whoever read its output now reads its input."""
        source = node.inputs[0]
        self.nodes.remove(node)
        for other in self.nodes:
            other.inputs = [source if name == node.output else name for name in other.inputs]
        if self.output == node.output:
            self.output = source

    def drop_dead_nodes(self) -> None:
        """Remove nodes whose output nobody reads."""
        needed = {self.output}
        for node in reversed(self.nodes):
            if node.output in needed:
                needed.update(node.inputs)
        self.nodes = [node for node in self.nodes if node.output in needed]

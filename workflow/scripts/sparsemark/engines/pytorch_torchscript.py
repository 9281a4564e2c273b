"""PyTorch's TorchScript: traced, frozen, and optimised for inference (batch norm folded, oneDNN layouts)."""

from ._pytorch import PyTorchEngine


class Adapter(PyTorchEngine):
    title = "TorchScript"

    def compile(self, network, example):
        torch = self.torch
        frozen = torch.jit.freeze(torch.jit.trace(network, example))
        scripted = torch.jit.optimize_for_inference(frozen)
        # The profiling executor specialises during the first calls.
        for _ in range(3):
            scripted(example)
        self.operators = sorted({node.kind() for node in scripted.inlined_graph.nodes()} - {"prim::Constant"})
        return scripted

    def details(self) -> dict[str, str]:
        return {**super().details(), "operators": ", ".join(self.operators)}

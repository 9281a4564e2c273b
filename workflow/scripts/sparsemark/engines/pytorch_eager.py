"""PyTorch, one operator after the other, as a model runs right after training."""

from ._pytorch import PyTorchEngine


class Adapter(PyTorchEngine):
    title = "PyTorch eager"

    def compile(self, network, example):
        return network

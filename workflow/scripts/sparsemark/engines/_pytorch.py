"""What the adapters of PyTorch's three execution modes share."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np

from .protocol import CHECKPOINT, Engine, Execution


class PyTorchEngine(Engine):
    """A network of this workflow in PyTorch. Subclasses turn the eager module into what they run."""

    environment = "pytorch"
    models: ClassVar = {"fp32": CHECKPOINT, "bf16": CHECKPOINT}
    missing: ClassVar = {"int8": "torchao's form for x86 runs in torch.compile only"}

    def prepare(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        # One model, one stream of requests: nothing to run beside an operator.
        torch.set_num_interop_threads(1)
        self.torch = torch

    @abstractmethod
    def compile(self, network, example):
        """Return the callable that is measured, for the eager `network` and an `example` input."""

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        from sparsemark.networks.network import load_network

        torch = self.torch
        network, _ = load_network(model)
        # BF16 as its users run it for speed: weights and activations converted once, not cast in every call.
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        # Channels last: eager convolutions need not reorder their input and weights in every call.
        self.network = network.to(dtype=self.dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            # Made as `run` makes its inputs: compiled code is specialised on the kind of tensor.
            example = torch.zeros(batch_size, 1, 32, 32, dtype=self.dtype)
            self.compiled = self.compile(self.network, example)
            self.compiled(example)

    def run(self, x: np.ndarray) -> np.ndarray:
        torch = self.torch
        with torch.inference_mode():
            return self.compiled(torch.from_numpy(x).to(self.dtype)).to(torch.float32).numpy()

    def execution(self) -> Execution:
        torch = self.torch
        dtypes = {str(parameter.dtype) for parameter in self.network.parameters() if parameter.dim() > 1}
        precision = {"torch.float32": "fp32", "torch.bfloat16": "bf16"}
        capability = torch.backends.cpu.get_cpu_capability()
        return Execution(
            version=torch.__version__,
            threads=torch.get_num_threads(),
            precision="+".join(sorted(precision.get(dtype, dtype) for dtype in dtypes)),
            instruction_set={"AVX512": "AVX-512"}.get(capability, capability),
            own_operator_share=1.0,
            details={"inter-op threads": str(torch.get_num_interop_threads()), **self.details()},
        )

    def details(self) -> dict[str, str]:
        """Return further settings that were read back."""
        return {"oneDNN": str(self.torch.backends.mkldnn.is_available())}

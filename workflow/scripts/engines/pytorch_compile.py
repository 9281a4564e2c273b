"""PyTorch's torch.compile: Inductor, with weights frozen into the compiled code."""

import os
import shutil

from ._pytorch import PyTorchEngine
from .protocol import UnsupportedCase, cache_folder


class Adapter(PyTorchEngine):
    title = "torch.compile"

    def prepare(self, threads: int) -> None:
        if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
            raise UnsupportedCase("torch.compile needs a C++ compiler (g++ or clang++), and there is none")
        # Compiled code is kept between processes: every round is a fresh one.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder("pytorch_compile"))
        os.environ["TORCHINDUCTOR_FREEZING"] = "1"
        # Compiler processes would share the cores that this process is pinned to.
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        super().prepare(threads)

    def compile(self, network, example):
        # Fixed shapes and whole graph: what is measured is compiled code only, or there is an error.
        return self.torch.compile(network, fullgraph=True, dynamic=False)

    def details(self) -> dict[str, str]:
        from torch._inductor import config
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        return {
            **super().details(),
            "freezing": str(config.freezing),
            "max_autotune": str(config.max_autotune),
            "generated code": str(pick_vec_isa()),
        }

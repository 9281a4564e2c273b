"""PyTorch's torch.compile: Inductor, with weights frozen into the compiled code."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from sparsemark.models import saturation

from ._pytorch import PyTorchEngine
from .protocol import Execution, UnsupportedCase, cache_folder

#: How compilers say that a header is not installed, g++ first, clang++ second.
MISSING_HEADER = re.compile(r"fatal error: '?([\w./+-]+?)'?(?:: No such file or directory| file not found)")


class Adapter(PyTorchEngine):
    title = "torch.compile"
    models: ClassVar = {
        **PyTorchEngine.models,
        "int8": "quantize_pytorch/{data}/{network}/seed{seed}/batch{batch_size}.pt2",
    }
    missing: ClassVar = {}

    def prepare(self, threads: int) -> None:
        if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
            raise UnsupportedCase("torch.compile needs a C++ compiler (g++ or clang++), and there is none")
        # Compiled code is kept between processes: every round is a fresh one.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder("pytorch_compile"))
        os.environ["TORCHINDUCTOR_FREEZING"] = "1"
        # Compiler processes would share the cores that this process is pinned to.
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        super().prepare(threads)

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        try:
            if precision == "int8":
                self._load_quantized(model, batch_size)
            else:
                super().load(model, batch_size=batch_size, threads=threads, precision=precision)
        except Exception as error:  # Inductor wraps what its compiler says in several kinds
            if missing := MISSING_HEADER.search(str(error)):
                header = missing[1]
                whose = " (Python's own: python3-dev, python3-devel)" if header == "Python.h" else ""
                raise UnsupportedCase(f"torch.compile needs the header {header}{whose}, and there is none") from error
            raise

    def _load_quantized(self, model: Path, batch_size: int) -> None:
        torch = self.torch
        # It registers the quantised operators that the program holds.
        from torchao.quantization.pt2e.inductor_passes.x86 import _register_quantization_weight_pack_pass
        from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86

        _register_quantization_weight_pack_pass()
        self.dtype = torch.float32
        example = torch.zeros(batch_size, 1, 32, 32)
        with torch.no_grad():
            self.notes = {saturation.KEY: ""}
            program = torch.export.load(model, extra_files=self.notes).module()
            self.network = lower_pt2e_quantized_to_x86(program, (example,))
            # The integer kernels leave channels last: what was a view before now has to copy.
            for node in self.network.graph.nodes:
                if node.target is torch.ops.aten.view.default:
                    node.target = torch.ops.aten.reshape.default
            self.network.recompile()
            self.compiled = self.compile(self.network, example)
            self.compiled(example)

    def execution(self) -> Execution:
        execution = super().execution()
        if execution.precision:
            return execution
        # An INT8 program has no parameters: its weights are packed into the integer operators.
        targets = [str(node.target) for node in self.network.graph.nodes]
        heavy = [name for name in targets if any(word in name for word in ("conv", "linear", "mm"))]
        kinds = {"int8" if name.startswith("onednn.q") else "fp32" for name in heavy}
        products = saturation.explain(self.notes[saturation.KEY])
        return replace(
            execution,
            precision="+".join(sorted(kinds)),
            details={**execution.details, "8-bit products": products},
        )

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

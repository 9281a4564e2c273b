"""Apache TVM: a library compiled for this CPU from the schedules that MetaSchedule found (see tune_tvm.py)."""

import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from .protocol import Engine, Execution


class Adapter(Engine):
    title = "TVM"
    environment = "tvm"
    compiled_models = True
    models: ClassVar = {"fp32": "tune_tvm/{data}/{network}/seed{seed}/batch{batch_size}.so"}
    missing: ClassVar = {
        "int8": "its ONNX front end turns quantised operators into FP32 ones, and its VNNI schedules want another",
        "bf16": "this study has no tool that makes a BF16 network for it",
    }

    def prepare(self, threads: int) -> None:
        # Read when the thread pool starts. The process is pinned already, and to the same cores.
        os.environ["TVM_NUM_THREADS"] = str(threads)
        os.environ["TVM_BIND_THREADS"] = "0"
        import tvm
        from tvm import relax

        self.tvm, self.relax = tvm, relax

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        tvm = self.tvm
        library = tvm.runtime.load_module(str(model))
        self.main = self.relax.VirtualMachine(library, tvm.cpu())["main"]
        self.input = None

    def run(self, x: np.ndarray) -> np.ndarray:
        if self.input is None:
            self.input = self.tvm.runtime.empty(x.shape, "float32", self.tvm.cpu())
        self.input.copyfrom(x)
        return self.main(self.input).numpy()

    def execution(self) -> Execution:
        from tvm.target import codegen

        cpu = codegen.llvm_get_system_cpu()
        features = codegen.llvm_get_cpu_features(self.tvm.target.Target({"kind": "llvm", "mcpu": cpu}))
        return Execution(
            version=self.tvm.__version__,
            threads=int(os.environ["TVM_NUM_THREADS"]),
            precision="fp32",
            instruction_set="AVX-512" if "avx512f" in list(features) else "",
            own_operator_share=1.0,
            details={"target": cpu, "LLVM": str(codegen.llvm_version_major())},
        )

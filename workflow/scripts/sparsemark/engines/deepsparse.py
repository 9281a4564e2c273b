"""DeepSparse 1.8: compiles for sparse weights, FP32 and INT8."""

import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsemark.models import saturation

from .protocol import ONNX, Engine, Execution, UnsupportedCase


class Adapter(Engine):
    title = "DeepSparse"
    environment = "deepsparse"
    models: ClassVar = {
        "fp32": ONNX,
        "int8": "quantize_deepsparse/{data}/{network}/seed{seed}/batch{batch_size}.onnx",
    }

    def prepare(self, threads: int) -> None:
        # Read at import. Without it the engine reports every start to its maker's server, which waits for a timeout
        # where there is no network.
        os.environ["NM_DISABLE_ANALYTICS"] = "True"
        import deepsparse

        self.deepsparse = deepsparse

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        import onnx

        try:
            self.engine = self.deepsparse.Engine(str(model), batch_size=batch_size, num_cores=threads)
        except (RuntimeError, ValueError) as error:
            raise UnsupportedCase(f"DeepSparse refuses the model: {error}") from error
        share = self.engine.fraction_of_supported_ops
        # What it cannot compile, it hands to the ONNX Runtime that it carries: that speed is not DeepSparse's.
        if share < 1:
            raise UnsupportedCase(
                f"DeepSparse compiles only {share:.0%} of the operators; the rest ran in its fallback, "
                "the ONNX Runtime that it carries"
            )
        graph = onnx.load(model)
        self.notes = {entry.key: entry.value for entry in graph.metadata_props}
        integer = {"ConvInteger", "MatMulInteger"}
        self.precision = "int8" if integer & {node.op_type for node in graph.graph.node} else "fp32"

    def run(self, x: np.ndarray) -> np.ndarray:
        return self.engine.run([x], val_inp=False)[0]

    def execution(self) -> Execution:
        vnni = self.engine.cpu_vnni and self.precision == "int8"
        details = {"scheduler": self.engine.scheduler.value, "left in FP32": self.notes.get("left_in_fp32", "")}
        if self.precision == "int8":
            details["8-bit products"] = saturation.explain(self.notes.get(saturation.KEY, ""))
        return Execution(
            version=self.deepsparse.__version__,
            threads=self.engine.num_cores,
            precision=self.precision,
            instruction_set=f"{self.engine.cpu_avx_type}{' VNNI' if vnni else ''}".upper().replace("AVX512", "AVX-512"),
            own_operator_share=self.engine.fraction_of_supported_ops,
            details=details,
        )

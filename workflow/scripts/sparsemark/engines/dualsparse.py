"""dualsparse, this repository's own engine: INT8 and FP32, weight sparsity and activation sparsity together.

The package lies at the root of the repository and is imported from there.
"""

import os
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np

from .protocol import ONNX, Engine, Execution, UnsupportedCase, cache_folder


class Adapter(Engine):
    title = "dualsparse"
    environment = "dualsparse"
    models: ClassVar = {"fp32": ONNX, "int8": "quantize_qdq/{data}/{network}/seed{seed}/batch{batch_size}.onnx"}

    def prepare(self, threads: int) -> None:
        # Both are read when the package is imported: one for generated sources, one for compiled code.
        for variable in ("DUALSPARSE_CACHE", "NUMBA_CACHE_DIR"):
            os.environ.setdefault(variable, str(cache_folder("dualsparse")))
        sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
        # Absolute: this module has the same name, but is `engines.dualsparse`.
        import dualsparse

        self.dualsparse = dualsparse

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        try:
            self.engine = self.dualsparse.Engine.from_onnx(model, batch_size, threads)
        except self.dualsparse.UnsupportedModelError as error:
            raise UnsupportedCase(str(error)) from error
        # What is compiled when it is first needed belongs to loading.
        self.engine.run(np.zeros(self.engine.input_shape, np.float32))

    def run(self, x: np.ndarray) -> np.ndarray:
        return self.engine.run(x)

    def execution(self) -> Execution:
        engine = self.engine
        layers = zip(engine.layers(measure=False), engine.kernels, strict=True)
        return Execution(
            version=self.dualsparse.__version__,
            threads=engine.threads,
            precision=engine.precision,
            instruction_set=engine.instruction_set,
            own_operator_share=engine.own_share,
            details={layer.name: f"{kernel}, {layer.pattern}, {layer.pattern.density:.1%}" for layer, kernel in layers},
        )

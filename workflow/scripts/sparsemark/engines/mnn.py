"""MNN on its CPU backend. Layers that its converter found sparse enough (see convert_mnn.py) run sparse kernels."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from .protocol import Engine, Execution

#: Numbers of `MNN::Interpreter::SessionInfoCode` and, of `MNNForwardType`, the names of what a session runs on.
BACKENDS, THREAD_NUMBER = 2, 4
BACKEND_NAMES = {0: "plain C++ and SSE", 13: "AVX2 or AVX-512"}
#: Writes a model file as JSON, by MNN's converter.
DUMP = "import sys, _tools; _tools.mnnconvert(['', '-f', 'MNN', '--modelFile', sys.argv[1], '--JsonFile', sys.argv[2]])"


class Adapter(Engine):
    title = "MNN"
    environment = "mnn"
    models: ClassVar = {"fp32": "convert_mnn/{data}/{network}/seed{seed}/batch{batch_size}.mnn"}
    missing: ClassVar = {
        "int8": "this study has no tool that makes an INT8 network for it",
        "bf16": "asked for BF16, its wheel computes in FP32",
    }

    def prepare(self, threads: int) -> None:
        import MNN

        self.mnn = MNN

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        mnn, self.model = self.mnn, model
        self.interpreter = mnn.Interpreter(str(model))
        self.session = self.interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
        self.input = self.interpreter.getSessionInput(self.session)
        self.output = self.interpreter.getSessionOutput(self.session)

    def run(self, x: np.ndarray) -> np.ndarray:
        mnn = self.mnn
        # `fromNumpy` would be shorter, but ignores the layout of the session's own tensor.
        self.input.copyFrom(mnn.Tensor(x.shape, mnn.Halide_Type_Float, x, mnn.Tensor_DimensionType_Caffe))
        self.interpreter.runSession(self.session)
        return self.output.getNumpyData()

    def execution(self) -> Execution:
        sparse = self._sparse_layers()
        backend = self.interpreter.getSessionInfo(self.session, BACKENDS)
        # It hands every value out as a float, this one with the bits of an integer.
        threads = np.float32(self.interpreter.getSessionInfo(self.session, THREAD_NUMBER)).view(np.int32)
        return Execution(
            version=self.mnn.version(),
            threads=int(threads),
            precision="fp32",
            instruction_set=BACKEND_NAMES.get(backend, str(backend)),
            own_operator_share=1.0,
            details={"layers with sparse kernels": ", ".join(sparse) or "none"},
        )

    def _sparse_layers(self) -> list[str]:
        """Return the names of the layers that the model file marks as sparse."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.json")
            subprocess.run([sys.executable, "-c", DUMP, self.model, path], stdout=sys.stderr, check=True)
            operators = json.loads(path.read_text(encoding="utf-8"))["oplists"]
        return [operator["name"] for operator in operators if (operator.get("main") or {}).get("sparseParameter")]

"""ONNX Runtime on its CPU execution provider, with all graph optimisations."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsemark.models import saturation

from .protocol import ONNX, Engine, Execution

#: Operators of an optimised graph that compute on integers.
INTEGER_OPERATORS = {
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}
HEAVY_OPERATORS = {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


class Adapter(Engine):
    title = "ONNX Runtime"
    environment = "onnxruntime"
    models: ClassVar = {"fp32": ONNX, "int8": "quantize_onnxruntime/{data}/{network}/seed{seed}/batch{batch_size}.onnx"}

    def prepare(self, threads: int) -> None:
        import onnxruntime

        self.onnxruntime = onnxruntime

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        self.model = model
        self.session = self._session(self._options(threads))
        self.threads = threads
        [self.input] = [entry.name for entry in self.session.get_inputs()]
        [self.output] = [entry.name for entry in self.session.get_outputs()]

    def _options(self, threads: int):
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = self.onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self.onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # The process is pinned to as many cores as there are threads: they may spin while they wait for work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.log_severity_level = 3
        return options

    def _session(self, options):
        return self.onnxruntime.InferenceSession(str(self.model), options, providers=["CPUExecutionProvider"])

    def run(self, x: np.ndarray) -> np.ndarray:
        return self.session.run([self.output], {self.input: x})[0]

    def execution(self) -> Execution:
        operators = self._optimised_operators()
        integer = sum(operators[name] for name in INTEGER_OPERATORS)
        floating = sum(operators[name] for name in HEAVY_OPERATORS)
        precision = {(True, False): "int8", (False, True): "fp32"}.get((integer > 0, floating > 0), "int8+fp32")
        options = self.session.get_session_options()
        details = {
            "providers": ", ".join(self.session.get_providers()),
            "optimisation": str(options.graph_optimization_level),
            "operators": ", ".join(f"{name} {count}" for name, count in sorted(operators.items())),
        }
        if integer:
            notes = self.session.get_modelmeta().custom_metadata_map
            details["8-bit products"] = saturation.explain(notes.get(saturation.KEY, ""))
        return Execution(
            version=self.onnxruntime.__version__,
            threads=options.intra_op_num_threads,
            precision=precision,
            instruction_set="",
            own_operator_share=1.0 if self.session.get_providers() == ["CPUExecutionProvider"] else None,
            details=details,
        )

    def _optimised_operators(self) -> Counter:
        """Count the operators of the graph that ONNX Runtime runs, after its own optimisations."""
        import onnx

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimised.onnx"
            options = self._options(self.threads)
            options.optimized_model_filepath = str(path)
            self._session(options)
            return Counter(node.op_type for node in onnx.load(path).graph.node)

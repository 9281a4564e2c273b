"""LiteRT (TensorFlow Lite) with its CPU kernels, XNNPACK."""

from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np

from .protocol import Engine, Execution


class Adapter(Engine):
    title = "LiteRT (XNNPACK)"
    environment = "litert"
    models: ClassVar = {
        "fp32": "convert_litert/{data}/{network}/seed{seed}/batch{batch_size}.tflite",
        "int8": "quantize_litert/{data}/{network}/seed{seed}/batch{batch_size}.tflite",
    }

    def prepare(self, threads: int) -> None:
        from ai_edge_litert import interpreter

        self.litert = interpreter

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        self.threads = threads
        self.interpreter = self.litert.Interpreter(model_path=str(model), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.output = self.interpreter.get_output_details()[0]["index"]

    def run(self, x: np.ndarray) -> np.ndarray:
        self.interpreter.set_tensor(self.input, x)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output)

    def execution(self) -> Execution:
        # The list holds the model's operators and, behind them, one DELEGATE per partition that XNNPACK took.
        operators = self.interpreter._get_ops_details()
        delegated = [entry for entry in operators if entry["op_name"] == "DELEGATE"]
        plain = [entry for entry in operators if entry["op_name"] != "DELEGATE"]
        tensors = {entry["index"]: entry for entry in self.interpreter.get_tensor_details()}
        heavy = [entry for entry in plain if entry["op_name"] in ("CONV_2D", "FULLY_CONNECTED")]
        kinds = {np.dtype(tensors[entry["inputs"][1]]["dtype"]).name for entry in heavy}
        names = {"float32": "fp32", "int8": "int8"}
        return Execution(
            version=version("ai-edge-litert"),
            threads=self.threads,
            precision="+".join(sorted(names.get(kind, kind) for kind in kinds)),
            instruction_set="",
            own_operator_share=1.0,
            details={
                "partitions run by XNNPACK": str(len(delegated)),
                "operators": ", ".join(entry["op_name"] for entry in plain),
            },
        )

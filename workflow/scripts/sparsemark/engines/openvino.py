"""OpenVINO's CPU plugin. By default it runs FP32 models in BF16 where the CPU can; here each is asked for by name."""

from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsemark.models import saturation

from .protocol import ONNX, Engine, Execution, UnsupportedCase

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
HEAVY_LAYERS = {"Convolution", "FullyConnected", "MatMul"}


class Adapter(Engine):
    title = "OpenVINO"
    environment = "openvino"
    models: ClassVar = {
        "fp32": ONNX,
        "bf16": ONNX,
        "int8": "quantize_openvino/{data}/{network}/seed{seed}/batch{batch_size}.onnx",
    }

    def prepare(self, threads: int) -> None:
        import openvino

        self.openvino = openvino

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        self.model = model
        core = self.openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UnsupportedCase("the CPU has no BF16 instructions that OpenVINO uses")
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # The process is pinned already.
            "ENABLE_CPU_PINNING": False,
        }
        self.compiled = core.compile_model(str(model), "CPU", settings)
        self.request = self.compiled.create_infer_request()
        self.output = self.compiled.output(0)

    def run(self, x: np.ndarray) -> np.ndarray:
        return self.request.infer({0: x}, share_inputs=True, share_outputs=True)[self.output]

    def execution(self) -> Execution:
        layers = [operation.get_rt_info() for operation in self.compiled.get_runtime_model().get_ops()]
        kinds = [str(info["layerType"].astype(str)) for info in layers]
        primitives = [str(info["primitiveType"].astype(str)) for info in layers]
        precisions = [str(info["runtimePrecision"].astype(str)) for info in layers]
        heavy = [index for index, kind in enumerate(kinds) if kind in HEAVY_LAYERS]
        computing = [index for index, kind in enumerate(kinds) if kind not in ("Input", "Output", "Constant", "Const")]
        reference = sum(primitives[index].startswith("ref") for index in computing)
        names = {NAMES.get(precisions[index], precisions[index]) for index in heavy}
        instruction_sets = [primitives[index] for index in heavy]
        details = {
            "streams": str(self.compiled.get_property("NUM_STREAMS")),
            "precision hint": self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
            "pinning": str(self.compiled.get_property("ENABLE_CPU_PINNING")),
            "layers": ", ".join(
                f"{kind} ({primitive}) {count}"
                for (kind, primitive), count in sorted(
                    Counter((kinds[index], primitives[index]) for index in computing).items()
                )
            ),
        }
        if "int8" in names:
            details["8-bit products"] = saturation.explain(self._remedy())
        return Execution(
            version=self.openvino.__version__.split("-")[0],
            threads=self.compiled.get_property("INFERENCE_NUM_THREADS"),
            precision="+".join(sorted(names)),
            instruction_set=", ".join(sorted(set(instruction_sets))),
            own_operator_share=1 - reference / max(1, len(computing)),
            details=details,
        )

    def _remedy(self) -> str:
        """Return what was done to the model against saturation."""
        import onnx

        return {entry.key: entry.value for entry in onnx.load(self.model).metadata_props}.get(saturation.KEY, "")

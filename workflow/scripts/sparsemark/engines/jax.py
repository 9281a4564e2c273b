"""JAX: the network as array operations, compiled ahead of time by XLA for the CPU.

FP32 only: XLA's CPU compiler turns BF16 into FP32 (its compiled program says so), and has no INT8 convolution.
"""

import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from .protocol import ONNX, Engine, Execution, UnsupportedCase


class Adapter(Engine):
    title = "JAX (XLA)"
    environment = "jax"
    models: ClassVar = {"fp32": ONNX}
    missing: ClassVar = {
        "bf16": "XLA's CPU compiler turns BF16 into FP32",
        "int8": "this study has no tool that quantises the network for XLA",
    }

    def prepare(self, threads: int) -> None:
        # Read when XLA makes its thread pool, which otherwise has one thread per core the process may use.
        os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        os.environ["JAX_PLATFORMS"] = "cpu"
        import jax

        self.jax = jax

    def load(self, model: Path, *, batch_size: int, threads: int, precision: str) -> None:
        jax = self.jax
        self.threads = len(os.sched_getaffinity(0)) if threads > 1 else 1
        network, shape = self._network(model)
        example = jax.ShapeDtypeStruct(shape, jax.numpy.float32)
        self.compiled = jax.jit(network).lower(example).compile()

    def run(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.compiled(x))

    def execution(self) -> Execution:
        text = self.compiled.as_text()
        kinds = {"fp32": "f32[", "bf16": "bf16["}
        heavy = [
            line for line in text.splitlines() if " convolution(" in line or " dot(" in line or "custom-call" in line
        ]
        found = {name for name, kind in kinds.items() if any(line.split(" = ")[-1].startswith(kind) for line in heavy)}
        return Execution(
            version=self.jax.__version__,
            threads=self.threads,
            precision="+".join(sorted(found)),
            instruction_set="",
            own_operator_share=1.0,
            details={"fusions": str(text.count(" fusion(")), "heavy operators": str(len(heavy))},
        )

    def _network(self, path: Path):
        """Return the ONNX network as a function of JAX arrays, with its weights as constants, and its input's shape."""
        import onnx
        from onnx import numpy_helper

        lax, numpy = self.jax.lax, self.jax.numpy
        graph = onnx.load(path).graph
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        unknown = {node.op_type for node in graph.node} - {"Conv", "MaxPool", "Relu", "Flatten", "MatMul"}
        if unknown:
            raise UnsupportedCase(f"the adapter has no counterpart for {', '.join(sorted(unknown))}")

        def network(x):
            values = {graph.input[0].name: x}
            for node in graph.node:
                source = values[node.input[0]]
                attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
                if node.op_type == "Conv":
                    kernel = numpy.asarray(weights[node.input[1]])
                    result = lax.conv_general_dilated(source, kernel, attributes["strides"], "VALID")
                    result += numpy.asarray(weights[node.input[2]]).reshape(-1, 1, 1)
                elif node.op_type == "MaxPool":
                    window, strides = ((1, 1, *attributes[key]) for key in ("kernel_shape", "strides"))
                    result = lax.reduce_window(source, numpy.asarray(-numpy.inf), lax.max, window, strides, "VALID")
                elif node.op_type == "Relu":
                    result = numpy.maximum(source, 0)
                elif node.op_type == "Flatten":
                    result = source.reshape(len(source), -1)
                else:
                    result = source @ numpy.asarray(weights[node.input[1]])
                values[node.output[0]] = result
            return values[graph.output[0].name]

        return network, [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim]

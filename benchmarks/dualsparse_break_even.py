"""How many zeros `dualsparse` needs before it beats a dense engine, on one core.

The study's network with random weights, over ever more of them: n of each 64 in INT8, and unstructured in FP32, in
convolution 2 and linear layer 1; the other two layers stay dense. Beside them, in the same rounds, ONNX Runtime runs
the dense network in FP32. Run it alone on one core: `taskset -c 0 python benchmarks/dualsparse_break_even.py`.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
import onnxruntime
from dualsparse_limits import study_layers
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dualsparse import Engine
from dualsparse.kernels import choose_builder
from dualsparse.kernels.instruction_sets import best_instruction_set
from dualsparse.layers import InputQuantization
from dualsparse.onnx_import import import_onnx
from dualsparse.plan import make_plan

OF_64 = (2, 4, 8, 16, 24, 32, 48, 64)
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
SECONDS = 0.1


def float_network(rng: np.random.Generator, batch_size: int, density: float) -> onnx.ModelProto:
    """The study's network without normalisations, `density` of the weights of its two large layers not zero."""

    def weight(name: str, shape: tuple[int, ...], share: float = 1.0) -> onnx.TensorProto:
        values = rng.standard_normal(shape) * (rng.random(shape) < share) / np.sqrt(np.prod(shape[1:]) * share)
        return numpy_helper.from_array(values.astype(np.float32), name)

    weights = [
        weight("conv1", (64, 1, 5, 5)),
        weight("conv2", (64, 64, 5, 5), density),
        weight("linear1", (1500, 1600), density),
        weight("linear2", (12, 1500)),
    ]
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", "conv1"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["b"], **pool),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "conv2"], ["d"]),
        helper.make_node("MaxPool", ["d"], ["e"], **pool),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "linear1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["i"]),
        helper.make_node("Gemm", ["i", "linear2"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch_size, 1, 32, 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch_size, 12])
    graph = helper.make_graph(nodes, "study", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def competitors(batch_size: int) -> dict[str, Callable[[], object]]:
    """What runs against each other, by name: a call computes one batch."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch_size, 1, 32, 32)).astype(np.float32)
    runs: dict[str, Callable[[], object]] = {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    dense = float_network(rng, batch_size, 1.0).SerializeToString()
    session = onnxruntime.InferenceSession(dense, options, providers=["CPUExecutionProvider"])
    runs["ONNX Runtime, FP32 dense"] = lambda: session.run(None, {"x": x})
    out = np.empty((batch_size, 12), np.float32)
    if best_instruction_set() is None:
        sys.exit("This CPU has no instruction set for fast programs: there is nothing to measure.")
    for n in OF_64:
        layers, quantization = study_layers(rng, n, 1.0), InputQuantization(0.03, 128)
        program = choose_builder(layers, quantization, instruction_set=best_instruction_set()).program()
        runs[f"INT8, {n} of 64"] = lambda program=program: program(x, out)
    for density in DENSITIES:
        content = float_network(rng, batch_size, density).SerializeToString()
        # Our layers run all of it, where `Engine.from_onnx` would leave to ONNX Runtime what that is faster at.
        engine = Engine(make_plan(import_onnx(content, batch_size)))
        runs[f"FP32, unstructured, {density:.0%} non-zero"] = lambda engine=engine: engine.run(x)
    return runs


def words_per_second(runs: dict[str, Callable[[], object]], batch_size: int, rounds: int) -> dict[str, list[float]]:
    """The throughput of each competitor in each round."""
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            calls, begin = 0, perf_counter()
            while perf_counter() < begin + SECONDS:
                run()
                calls += 1
            speeds[name].append(calls * batch_size / (perf_counter() - begin))
    return speeds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of all competitors (default: %(default)s)")
    options = parser.parse_args(arguments)
    if len(os.sched_getaffinity(0)) > 1:
        sys.exit("Run it on one core: taskset -c 0 python benchmarks/dualsparse_break_even.py")
    for batch_size in (1, 64):
        speeds = words_per_second(competitors(batch_size), batch_size, options.rounds)
        reference, *_ = speeds.values()
        print(f"batch size {batch_size}\n{'':32}{'words/s':>10}{'times':>8}  range")
        for name, values in speeds.items():
            ratios = sorted(value / base for value, base in zip(values, reference, strict=True))
            middle = statistics.median(ratios)
            print(f"{name:32}{statistics.median(values):10,.0f}{middle:8.2f}  {ratios[0]:.2f} to {ratios[-1]:.2f}")
        print()


if __name__ == "__main__":
    main()

"""Time every operator of one network in one engine, by that engine's own profiler, on one core.

Writes a CSV with one line per operator in the order of execution. `kind` groups operators across engines:
convolution, matrix product, pooling, activation, conversion (between number formats and layouts) and other. What an
engine fuses into one kernel is one line, and counts as the heaviest of its parts.
"""

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsemark.engines import engine_class
from sparsemark.files import InputError, atomic_path, run_program
from sparsemark.measuring.case import foreign_code
from sparsemark.measuring.topology import one_core, read_cpus
from sparsemark.models.calibration import batches, load_calibration

COLUMNS = (
    *("engine", "engine_version", "network", "precision", "batch_size"),
    *("position", "operator", "type", "kernel", "kind", "microseconds", "share"),
)
#: The first of these that occurs in an operator's type or name tells its kind.
KINDS = {
    "convert": "conversion",
    "conv": "convolution",
    "winograd": "convolution",
    "matmul": "matrix product",
    "gemm": "matrix product",
    "fullyconnected": "matrix product",
    "pool": "pooling",
    "quantizelinear": "conversion",
    "quantize": "conversion",
    "reorder": "conversion",
    "transpose": "conversion",
    "shuffle": "conversion",
    "reshape": "conversion",
    "flatten": "conversion",
    "relu": "activation",
    "eltwise": "activation",
    "elementwise": "activation",
}


@dataclass(frozen=True)
class Operator:
    """One operator as the engine ran it: its name, its type, the kernel, and its median time in microseconds."""

    name: str
    type: str
    kernel: str
    microseconds: float

    @property
    def kind(self) -> str:
        for text in (self.type.lower(), self.name.lower()):
            for word, kind in KINDS.items():
                if word in text:
                    return kind
        return "other"


def repeat(seconds: float, step: Callable[[np.ndarray], None], inputs: list[np.ndarray]) -> None:
    """Call `step` with one input after the other, for `seconds` and at least ten times."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end or count < 10:
        step(inputs[count % len(inputs)])
        count += 1


def _medians(samples: dict[tuple[str, str, str], list[float]]) -> list[Operator]:
    # The first calls still warm caches and allocate.
    return [Operator(*key, statistics.median(times[2:] or times)) for key, times in samples.items()]


def profile_onnxruntime(model: Path, inputs: list[np.ndarray], seconds: float) -> tuple[str, list[Operator]]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "profile")
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        repeat(seconds, lambda x: session.run(None, {name: x}), inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    samples = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            operator = event["args"]["op_name"]
            samples[event["name"].removesuffix("_kernel_time"), operator, operator].append(event["dur"])
    return onnxruntime.__version__, _medians(samples)


def profile_openvino(model: Path, inputs: list[np.ndarray], seconds: float) -> tuple[str, list[Operator]]:
    import openvino

    settings = {"PERF_COUNT": "YES", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()
    samples = defaultdict(list)

    def step(x: np.ndarray) -> None:
        request.infer({0: x}, share_inputs=True)
        for entry in request.get_profiling_info():
            if entry.status == openvino.ProfilingInfo.Status.EXECUTED:
                key = entry.node_name, entry.node_type, entry.exec_type
                samples[key].append(entry.real_time.total_seconds() * 1e6)

    repeat(seconds, step, inputs)
    return openvino.__version__.split("-")[0], _medians(samples)


def profile_deepsparse(model: Path, inputs: list[np.ndarray], seconds: float) -> tuple[str, list[Operator]]:
    os.environ["NM_DISABLE_ANALYTICS"] = "True"
    import deepsparse

    def analyse(iterations: int) -> dict:
        return deepsparse.model_debug_analysis(
            str(model), [inputs[0]], len(inputs[0]), 1, num_iterations=iterations, num_warmup_iterations=10
        )

    iterations = round(seconds * 1e3 / analyse(10)["average_total_time"])
    layers = analyse(min(max(iterations, 20), 1000))["layer_info"]
    # "Naive" parts copy the network's input and output.
    return deepsparse.__version__, [
        Operator(
            layer["canonical_name"].replace("<none>", "") or layer["name"],
            "shuffle" if layer["name"].startswith("Naive") else layer["name"],
            layer["name"],
            layer["average_run_time_in_ms"] * 1e3,
        )
        for layer in layers
    ]


def profile_tvm(model: Path, inputs: list[np.ndarray], seconds: float) -> tuple[str, list[Operator]]:
    os.environ["TVM_NUM_THREADS"] = "1"
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(model)), tvm.cpu())
    samples, started = defaultdict(list), {}

    def instrument(function: object, name: str, before: bool, status: int, *arguments: object) -> int:
        if before:
            started[name] = time.perf_counter()
        elif not name.startswith("vm."):
            samples[name, name, name].append((time.perf_counter() - started[name]) * 1e6)
        return 0

    machine.set_instrument(instrument)
    repeat(seconds, lambda x: machine["main"](tvm.runtime.tensor(x)), inputs)
    return tvm.__version__, _medians(samples)


PROFILERS = {
    "onnxruntime": profile_onnxruntime,
    "openvino": profile_openvino,
    "deepsparse": profile_deepsparse,
    "tvm": profile_tvm,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=PROFILERS, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the file that the engine loads")
    parser.add_argument("--features", type=Path, required=True, help="npz with x, float32 [clips, 1, mels, frames]")
    parser.add_argument("--network", required=True, help="name of the network, for the table")
    parser.add_argument("--precision", required=True, help="precision of the model, for the table")
    parser.add_argument("--batch-size", type=int, required=True, help="of the model")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to run (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {one_core(read_cpus())})
    if not options.model.exists() or options.model.stat().st_size == 0:
        raise InputError(f"{options.model}: expected a model for {options.engine}; it could not be prepared")
    if engine_class(options.engine).compiled_models and (outcome := foreign_code(options.model)):
        raise InputError(outcome.reason)
    inputs = list(batches(load_calibration(options.features)[: 16 * options.batch_size], options.batch_size))
    version, operators = PROFILERS[options.engine](options.model, inputs, options.seconds)
    total = sum(operator.microseconds for operator in operators)
    with atomic_path(options.out) as partial, open(partial, "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(COLUMNS)
        case = [options.engine, version, options.network, options.precision, options.batch_size]
        for position, operator in enumerate(operators):
            time_and_share = [round(operator.microseconds, 2), round(operator.microseconds / total, 4)]
            what = [operator.name, operator.type, operator.kernel, operator.kind]
            table.writerow([*case, position, *what, *time_and_share])
    print(f"{options.out}: {len(operators)} operators, {total:.0f} µs")


if __name__ == "__main__":
    run_program(main)

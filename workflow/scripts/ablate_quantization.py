"""What quantisation gains, and where: one tool, many variants of what it quantises, speed and accuracy of each.

The variants differ in four things: the order of ReLU and max-pool in the graph (they commute, but engines fuse a
ReLU only into the convolution right before it), the operator types that are quantised, single layers that are left in
FP32 or quantised alone, and the bits of the weights (with 7, products cannot saturate on a CPU without VNNI). All
variants run interleaved on one core in one process, through the same adapters that the study measures; a ratio is
formed within a round. DeepSparse's compiler may end the process, so its variants are those that it compiles.
"""

import argparse
import csv
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparsemark.engines import engine_class
from sparsemark.engines.protocol import Engine, UnsupportedCase
from sparsemark.files import InputError, atomic_path, run_program
from sparsemark.measuring.outcome import from_exception
from sparsemark.measuring.topology import one_core, read_cpus
from sparsemark.models.calibration import batches, load_calibration
from sparsemark.models.onnx_model import batch_size_of, load_model
from sparsemark.progress import Progress

COLUMNS = (
    *("engine", "engine_version", "network", "batch_size", "variant", "order", "quantized", "method", "accuracy"),
    *("agreement", "throughput_words_per_s", "ratio", "ratio_low", "ratio_high", "status", "reason"),
)


@dataclass
class Variant:
    """One way to quantise: how it is called, what it is, and what makes it (None for FP32 itself)."""

    name: str
    order: str  # "pool, relu" as in the network, or "relu, pool"
    quantized: str
    make: Callable[[Path], None] | None
    method: str = "minmax"
    status: str = "ok"
    reason: str = ""
    engine: Engine | None = None
    seconds: list[float] = field(default_factory=list)
    logits: np.ndarray | None = None


def onnxruntime_variants(model: Path, calibration: Path, layers: list[str]) -> list[Variant]:
    from sparsemark.models.onnxruntime_quantizer import quantize

    computing = ("Conv", "MatMul", "Gemm")

    def variant(
        name: str,
        quantized: str,
        form: str,
        operators: tuple,
        keep: bool,
        fp32: tuple = (),
        method: str = "minmax",
        reduce_range: bool = False,
    ) -> Variant:
        def make(out: Path) -> None:
            quantize(model, calibration, out, form, operators, fp32, method, keep, reduce_range=reduce_range)

        return Variant(name, "pool, relu" if keep else "relu, pool", f"{quantized} ({form})", make, method)

    everything = (*computing, "MaxPool", "Relu", "Flatten")
    return [
        variant("every operator", "all", "qdq", everything, True),
        variant("max-pool left in FP32", "all but max-pool", "qdq", (*computing, "Relu", "Flatten"), True),
        variant("convolutions and products", "convolutions, products", "qdq", computing, True),
        variant("every operator, integer graph", "all", "qoperator", everything, True),
        variant("convolutions and products, integer graph", "convolutions, products", "qoperator", computing, True),
        variant("ReLU first, every operator", "all", "qdq", everything, False),
        variant("ReLU first, every operator, integer graph", "all", "qoperator", everything, False),
        variant("ReLU first", "all but max-pool", "qoperator", (*computing, "Relu"), False),
        variant(
            "ReLU first, weights of 7 bits",
            "all but max-pool",
            "qoperator",
            (*computing, "Relu"),
            False,
            reduce_range=True,
        ),
        variant("ReLU first, entropy", "all but max-pool", "qoperator", (*computing, "Relu"), False, (), "entropy"),
        variant(
            "ReLU first, percentile", "all but max-pool", "qoperator", (*computing, "Relu"), False, (), "percentile"
        ),
        *(
            variant(f"{name} in FP32", f"all but {name}, max-pool", "qoperator", (*computing, "Relu"), False, (node,))
            for name, node in _named(layers)
        ),
        *(
            variant(f"only {name}", name, "qoperator", (*computing, "Relu"), False, _others(layers, node))
            for name, node in _named(layers)
        ),
    ]


def openvino_variants(model: Path, calibration: Path, layers: list[str]) -> list[Variant]:
    from sparsemark.models.nncf_quantizer import quantize

    def variant(
        name: str, quantized: str, keep: bool, types: tuple = (), fp32: tuple = (), reduce_range: bool = False
    ) -> Variant:
        def make(out: Path) -> None:
            quantize(model, calibration, out, types, fp32, keep, reduce_range)

        return Variant(name, "pool, relu" if keep else "relu, pool", quantized, make)

    return [
        variant("every operator", "NNCF's choice", True),
        variant("max-pool left in FP32", "NNCF's choice but max-pool", True, ("MaxPool",)),
        variant("ReLU first", "NNCF's choice", False),
        variant("ReLU first, weights of 7 bits", "NNCF's choice", False, reduce_range=True),
        variant("ReLU first, max-pool left in FP32", "NNCF's choice but max-pool", False, ("MaxPool",)),
        *(variant(f"{name} in FP32", f"all but {name}", False, (), (node,)) for name, node in _named(layers)),
        *(variant(f"only {name}", name, False, (), _others(layers, node)) for name, node in _named(layers)),
    ]


def deepsparse_variants(model: Path, calibration: Path, layers: list[str]) -> list[Variant]:
    import onnx

    from sparsemark.models.deepsparse_quantizer import integer_model, own_operator_share, quantizable_nodes
    from sparsemark.models.quantization import activation_ranges

    clips = load_calibration(calibration)

    def variant(name: str, quantized: str, keep: bool, fp32: tuple = ()) -> Variant:
        def make(out: Path) -> None:
            graph = load_model(model, keep)
            ranges = activation_ranges(graph, sorted({node.input[0] for node in quantizable_nodes(graph)}), clips)
            onnx.save(integer_model(graph, ranges, fp32), out)
            share = own_operator_share(out, batch_size_of(graph), 1)
            if share < 1:
                raise UnsupportedCase(f"DeepSparse compiles {share:.0%} of it")

        return Variant(name, "pool, relu" if keep else "relu, pool", quantized, make)

    return [
        variant("every layer", "convolutions, products", True),
        variant("ReLU first", "convolutions, products", False),
        *(variant(f"{name} in FP32", f"all but {name}", True, (node,)) for name, node in _named(layers)),
        *(variant(f"only {name}", name, True, _others(layers, node)) for name, node in _named(layers)),
    ]


VARIANTS = {
    "onnxruntime": onnxruntime_variants,
    "openvino": openvino_variants,
    "deepsparse": deepsparse_variants,
}


def _named(nodes: list[str]) -> list[tuple[str, str]]:
    """Return (layer, node) for nodes named `/layer/Operator`, as PyTorch's exporter does."""
    return [(node.strip("/").split("/")[0], node) for node in nodes]


def _others(nodes: list[str], kept: str) -> tuple[str, ...]:
    return tuple(node for node in nodes if node != kept)


def layer_nodes(model: Path) -> list[str]:
    """Return the names of the convolutions and matrix products, in the order of the graph."""
    return [node.name for node in load_model(model).graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]


def prepare(variant: Variant, engine: str, model: Path, batch_size: int, folder: Path) -> None:
    """Make the variant's model and load it; a failure becomes its status."""
    path = model
    try:
        if variant.make is not None:
            path = folder / f"{abs(hash(variant.name))}.onnx"
            variant.make(path)
        variant.engine = engine_class(engine)()
        variant.engine.prepare(1)
        precision = "fp32" if variant.make is None else "int8"
        variant.engine.load(path, batch_size=batch_size, threads=1, precision=precision)
    except UnsupportedCase as error:
        variant.status, variant.reason = "unsupported", str(error)
    except Exception as error:  # tools and engines raise whatever they like; the row tells it
        outcome = from_exception(error)
        variant.status, variant.reason = outcome.status, outcome.reason


def measure(variants: list[Variant], inputs: list[np.ndarray], rounds: int, seconds: float) -> None:
    """Time all variants, interleaved: in each round each runs for `seconds`; keeps seconds per call, per round."""
    progress = Progress("measuring", rounds)
    for _ in range(rounds):
        for variant in variants:
            for x in inputs[:2]:
                variant.engine.run(x)
            calls, started = 0, time.perf_counter()
            while calls < 3 or time.perf_counter() - started < seconds:
                variant.engine.run(inputs[calls % len(inputs)])
                calls += 1
            variant.seconds.append((time.perf_counter() - started) / calls)
        progress.advance()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=VARIANTS, required=True)
    parser.add_argument("--model", type=Path, required=True, help="FP32 ONNX file with a fixed batch size")
    parser.add_argument("--calibration", type=Path, required=True, help="npz with x: calibration clips")
    parser.add_argument("--features", type=Path, required=True, help="npz with x and y: test clips and classes")
    parser.add_argument("--network", required=True, help="name of the network, for the table")
    parser.add_argument("--rounds", type=int, default=6, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.05, help="per variant and round (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {one_core(read_cpus())})
    batch_size = batch_size_of(load_model(options.model))
    with np.load(options.features) as features:
        clips, classes = features["x"], features["y"]
    if len(clips) == 0 or len(clips) != len(classes):
        raise InputError(f"{options.features}: expected as many classes y as clips x, and at least one")
    inputs = list(batches(clips, batch_size))
    fp32 = Variant("FP32", "pool, relu", "nothing", None, method="")
    variants = [fp32, *VARIANTS[options.engine](options.model, options.calibration, layer_nodes(options.model))]
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            prepare(variant, options.engine, options.model, batch_size, Path(folder))
            print(f"{variant.name}: {variant.status} {variant.reason}", file=sys.stderr, flush=True)
        if fp32.status != "ok":
            raise InputError(f"{options.model}: {options.engine} does not run it in FP32 ({fp32.reason})")
        running = [variant for variant in variants if variant.status == "ok"]
        for variant in running:
            results = [np.array(variant.engine.run(x)) for x in inputs]
            variant.logits = np.concatenate(results)[: len(clips)]
        measure(running, inputs, options.rounds, options.seconds)
    with atomic_path(options.out) as partial, open(partial, "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(COLUMNS)
        case = [options.engine, fp32.engine.execution().version, options.network, batch_size]
        for variant in variants:
            numbers = [""] * 6
            if variant.status == "ok":
                found = variant.logits.argmax(1)
                ratios = [base / own for base, own in zip(fp32.seconds, variant.seconds, strict=True)]
                numbers = [
                    round(float((found == classes).mean()), 4),
                    round(float((found == fp32.logits.argmax(1)).mean()), 4),
                    round(batch_size / statistics.median(variant.seconds), 1),
                    *(round(float(value), 3) for value in (statistics.median(ratios), min(ratios), max(ratios))),
                ]
            what = [variant.name, variant.order, variant.quantized, variant.method]
            table.writerow([*case, *what, *numbers, variant.status, variant.reason])
    print(f"{options.out}: {len(running)} of {len(variants)} variants measured")


if __name__ == "__main__":
    run_program(main)

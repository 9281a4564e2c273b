"""Small result tables with known answers, for the tests of figures, pages and claims. No number in them is measured."""

from itertools import product
from pathlib import Path

import pandas as pd
import yaml

ROUNDS = (1, 2, 3)
#: Speed of the machine in each round: no ratio and no speed may show it.
DRIFT = {1: 1.0, 2: 0.8, 3: 1.1}
PARAMETERS, MACS = 2_522_128, 13_911_600
SPECS = {
    "dense": {},
    "pruned": {"start": "dense", "sparsity": 0.95},
    "block": {"start": "dense", "sparsity": 0.9375, "pattern": "n_of_64"},
    "dual": {"start": "dense", "sparsity": 0.9375, "pattern": "n_of_64", "column_gate": 2},
}
LEFT = {"dense": 1.0, "pruned": 0.05, "block": 0.0625, "dual": 0.0625}
#: Words/s of the dense network at batch size 64 on all cores, before the drift.
SPEEDS = {
    ("pytorch_eager", "fp32"): 2000.0,
    ("onnxruntime", "fp32"): 10000.0,
    ("onnxruntime", "int8"): 25000.0,
    ("openvino", "fp32"): 11000.0,
    ("openvino", "bf16"): 20000.0,
    ("openvino", "int8"): 30000.0,
    ("deepsparse", "fp32"): 16000.0,
    ("dualsparse", "int8"): 20000.0,
}
GAINS = {
    ("deepsparse", "pruned"): 2.5,
    ("dualsparse", "block"): 8.0,
    ("dualsparse", "dual"): 16.0,
}
REASON = "no kernel for <this> & that"


def speed_of(engine: str, network: str, precision: str, batch_size: int, cores: str, layout: str) -> float:
    """Words/s before the drift: batch 1 is half as fast, one core half as fast as two, the worse layout 0.9 times."""
    value = SPEEDS[engine, precision] * GAINS.get((engine, network), 1.0)
    value *= (0.5 if batch_size == 1 else 1.0) * (0.5 if cores == "1" else 1.0)
    return value * (1.0 if cores == "1" or layout == best_layout(batch_size) else 0.9)


def best_layout(batch_size: int) -> str:
    return "1x2" if batch_size == 1 else "2x1"


def benchmark_rows() -> list[dict]:
    """Every engine on every network at two batch sizes and on one core or two; the first round tries both layouts."""
    rows = []
    for (engine, precision), network, batch_size, cores in product(
        [*SPEEDS, ("tvm", "int8")], SPECS, (1, 64), ("1", "all")
    ):
        yardstick = "1x1" if cores == "1" else "2x1"
        reference_case = (engine, precision, network) == ("onnxruntime", "fp32", "dense")
        for number in ROUNDS:
            layouts = ["1x1"] if cores == "1" else ["1x2", "2x1"]
            if number > 1 and cores == "all" and not reference_case:
                layouts = [best_layout(batch_size)]
            for layout in layouts if (engine, precision) in SPEEDS else [""]:
                measured = bool(layout)
                row = {
                    "engine": engine,
                    "engine_version": "1.0",
                    "network": network,
                    "seed": 1,
                    "precision": precision,
                    "batch_size": batch_size,
                    "cores": cores,
                    "layout": layout,
                    "round": number,
                    "ratio": "",
                    "latency_ms_p50": "",
                    "is_reference": reference_case and layout == yardstick,
                    "noisy": False,
                    "reference_words_per_s": "",
                    "base_ratio": "",
                    "turns_s": 1.5 if layout else "",
                    "measured_at": f"2026-01-01T00:0{number}:00Z",
                    "status": "ok" if measured else "unsupported",
                    "reason": "" if measured else REASON,
                    "model_sha256": "",
                    "machine": "Test CPU, 2 cores [abc]",
                    "doubts": f"the clock fell from 3000 to 2{number}00 MHz" if engine == "openvino" else "",
                    "other_load": 0.01 if measured else "",
                    "executed_precision": precision if measured else "",
                    "executed_threads": layout[-1:],
                    "instruction_set": "",
                    "own_operator_share": "1.0" if measured else "",
                }
                if measured:
                    value = speed_of(engine, network, precision, batch_size, cores, layout)
                    beside = speed_of("onnxruntime", "dense", "fp32", batch_size, cores, yardstick)
                    row["ratio"] = value / beside
                    row["reference_words_per_s"] = beside * DRIFT[number]
                    row["latency_ms_p50"] = 1000 * batch_size / value / DRIFT[number]
                    if row["is_reference"] and (batch_size, cores) != (64, "1"):
                        row["base_ratio"] = beside / speed_of("onnxruntime", "dense", "fp32", 64, "1", "1x1")
                rows.append(row)
    return rows


def network_rows() -> list[dict]:
    """Three seeds of every network; the sparse ones lose 0.1 points."""
    return [
        {
            "network": network,
            "kind": "trained",
            "unit": "words",
            "dataset": "speech_commands_v0.02",
            "dataset_title": "Speech Commands v0.02",
            "class_set": "commands",
            "seed": seed,
            "accuracy": 0.97 + 0.001 * seed - (0.001 if left < 1 else 0.0),
            "test_clips": 4890,
            "epochs": 20,
            "parameters": PARAMETERS,
            "weights": PARAMETERS,
            "nonzero_weights": int(PARAMETERS * left),
            "macs": MACS,
            "nonzero_macs": int(MACS * left),
        }
        for network, left in LEFT.items()
        for seed in (1, 2, 3)
    ]


#: A smaller dense network, as fast as the sparse ones without dualsparse; and a network from a file, pruned to a tenth.
SMALL_GAIN, SMALL_MACS = 3.0, 2_000_000
OWN_SPECS = {"mine": {"onnx": "mine.onnx", "data": "my.npz"}, "light": {"start": "mine", "sparsity": 0.9}}
OWN_GAINS = {("deepsparse", "light"): 2.0}


def with_small_dense(accuracy: float = 0.97) -> tuple[list[dict], list[dict], list[dict]]:
    """Benchmarks, networks and accuracies with a small dense network of the given accuracy."""
    small = like_dense("small", dict.fromkeys(SPEEDS, SMALL_GAIN))
    networks = [row for row in network_rows() if row["network"] == "dense"]
    networks = [
        row | {"network": "small", "macs": SMALL_MACS, "nonzero_macs": SMALL_MACS, "accuracy": accuracy}
        for row in networks
    ]
    accuracies = [
        row | {"network": "small", "accuracy": accuracy} for row in accuracy_rows() if row["network"] == "dense"
    ]
    return benchmark_rows() + small, network_rows() + networks, accuracy_rows() + accuracies


def own_network_rows() -> list[dict]:
    """A network from a file, with an accuracy, and what is left of it as a what-if, without one."""
    shared = network_rows()[0] | {
        "unit": "images",
        "dataset": "mine",
        "dataset_title": "my.npz",
        "class_set": "",
        "seed": 1,
        "test_clips": 32,
    }
    return [
        shared | {"network": "mine", "kind": "file", "accuracy": 0.75},
        shared
        | {"network": "light", "kind": "what-if", "accuracy": ""}
        | {"nonzero_weights": PARAMETERS // 10, "nonzero_macs": MACS // 10},
    ]


def own_benchmark_rows(alone: bool = False) -> list[dict]:
    """Both networks as fast as the dense one, but the what-if twice as fast in DeepSparse; alone, with a reference."""
    gains = {name: {("deepsparse", "fp32"): gain} for (_, name), gain in OWN_GAINS.items()}
    mine = [row | {"network": "mine"} for row in benchmark_rows() if row["network"] == "dense"]
    return (mine if alone else like_dense("mine", {})) + like_dense("light", gains["light"])


def like_dense(network: str, gains: dict[tuple[str, str], float]) -> list[dict]:
    """The dense network's rows for another one, faster by a gain in some engines and precisions."""
    no_reference = {"network": network, "is_reference": False, "base_ratio": ""}
    rows = [row | no_reference for row in benchmark_rows() if row["network"] == "dense"]
    for row in rows:
        if row["ratio"]:
            row["ratio"] *= gains.get((row["engine"], row["precision"]), 1.0)
    return rows


def accuracy_rows() -> list[dict]:
    """The accuracy of every artefact: 0.94 to 0.96 in INT8, by seed, and 0.95 else; TVM's have none."""
    return [
        {
            "engine": engine,
            "network": network,
            "seed": seed,
            "precision": precision,
            "accuracy": 0.93 + 0.01 * seed if precision == "int8" else 0.95,
            "test_clips": 4890,
            "agreement": 1.0,
            "status": "ok",
            "reason": "",
        }
        for engine, precision in SPEEDS
        for network in SPECS
        for seed in ((1, 2, 3) if precision == "int8" else (1,))
    ]


def ablation_rows() -> list[dict]:
    """ONNX Runtime in FP32, with everything quantised (1.5 times as fast), without max-pool (2.4), and a failure."""
    shared = {"engine": "onnxruntime", "network": "dense", "batch_size": 64}
    gains = {"FP32": 1.0, "every operator": 1.5, "max-pool left in FP32": 2.4}
    rows = [
        shared
        | {
            "variant": variant,
            "order": "pool, relu",
            "quantized": "all",
            "method": "minmax",
            "accuracy": 0.95,
            "throughput_words_per_s": 10000 * gain,
            "ratio": gain,
        }
        | {"ratio_low": 0.99 * gain, "ratio_high": 1.01 * gain, "status": "ok", "reason": ""}
        for variant, gain in gains.items()
    ]
    return [*rows, shared | {"variant": "only conv1", "status": "failed", "reason": "refused"}]


def profile_rows() -> list[dict]:
    """Microseconds per batch and operator of ONNX Runtime: 100 per word in FP32, 40 in INT8."""
    shared = {"engine": "onnxruntime", "network": "dense", "batch_size": 64}
    times = {
        ("fp32", "convolution"): 80.0,
        ("fp32", "pooling"): 20.0,
        ("int8", "convolution"): 25.0,
        ("int8", "pooling"): 15.0,
    }
    return [
        shared | {"precision": precision, "operator": f"/{kind}", "kind": kind, "microseconds": 64 * time}
        for (precision, kind), time in times.items()
    ]


def write_tables(
    folder: Path,
    benchmarks: list[dict] | None = None,
    networks: list[dict] | None = None,
    accuracies: list[dict] | None = None,
) -> None:
    """Write the tables and config.yaml into `folder`."""
    for name, rows, example in (
        ("benchmarks", benchmarks, benchmark_rows()),
        ("networks", networks, network_rows()),
        ("accuracies", accuracies, accuracy_rows()),
        ("ablation", None, ablation_rows()),
        ("profile", None, profile_rows()),
    ):
        table = pd.DataFrame(example if rows is None else rows, columns=list(example[0]))
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "config.yaml").write_text(yaml.safe_dump({"networks": SPECS | OWN_SPECS}), encoding="utf-8")

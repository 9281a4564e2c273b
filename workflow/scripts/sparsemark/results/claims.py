"""The claims of the reproduced study, and how a verdict follows from a measurement."""

from dataclasses import dataclass

import numpy as np

from sparsemark.results.claim_measures import (
    BATCH,
    SAME,
    SINGLE,
    STUDY_ENGINES,
    Measure,
    Study,
    against_pytorch,
    against_small_dense,
    batch_gain,
    both_sparsities,
    cpu_over_fpga_dense,
    dense_accuracy,
    fewer_macs,
    fpga_gain,
    fpga_over_cpu,
    good_batch_size,
    int8_gain,
    max_pool_left_alone,
    single_word_on_all_cores,
    sparse_accuracy,
    sparse_gain,
    tvm_against_others,
    tvm_batch,
)
from sparsemark.results.ratios import Estimate

CONFIRMED, REFUTED = "confirmed", "refuted"
#: It was measured, and the interval holds values on both sides of the claim's limit.
OPEN = "cannot be told"
#: Nothing that was measured decides it.
UNDECIDED = "not measurable here"
VERDICTS = (CONFIRMED, REFUTED, OPEN, UNDECIDED)
COLUMNS = ["claim", "statement", "quantity", "value", "low", "high", "verdict", "reason"]


@dataclass(frozen=True)
class Claim:
    """One statement of the study, what measures it, and the range of values that makes it true."""

    name: str
    statement: str
    quantity: str
    measure: Measure
    above: float = -np.inf
    below: float = np.inf

    def verdict(self, estimate: Estimate) -> str:
        """Hold the whole interval against the range; one that crosses its limit decides nothing."""
        low, high = estimate.conclusive
        if low >= self.above and high <= self.below:
            return CONFIRMED
        if high < self.above or low > self.below:
            return REFUTED
        return OPEN


CLAIMS = [
    Claim(
        "dense-accuracy",
        "The dense network recognises more than 96 % of the words.",
        "accuracy in %",
        dense_accuracy,
        above=96,
    ),
    Claim(
        "sparse-accuracy",
        "A network can lose about 95 % of its weights and stay as accurate as the dense one (within half a point).",
        "accuracy lost, in points",
        sparse_accuracy,
        below=0.5,
    ),
    Claim(
        "sparse-work",
        "At 95 % sparsity, a word costs at least ten times fewer multiply-accumulates.",
        "MACs dense / sparse",
        fewer_macs,
        above=10,
    ),
    Claim(
        "engines-beat-pytorch",
        "Engines that compile an ONNX model are faster than PyTorch, TorchScript included.",
        "throughput ratio, slowest pair: FP32, the study's engines, all batch sizes and cores",
        against_pytorch,
        above=1,
    ),
    Claim(
        "one-word-many-threads",
        "More threads make even a single word faster, on every engine.",
        "throughput ratio, all threads / one, smallest: all engines and precisions",
        single_word_on_all_cores,
        above=1,
    ),
    Claim(
        "batch-one-thread",
        "A batch of 64 is more efficient than single words on every engine, even on one thread.",
        "throughput ratio, batch 64 / 1, smallest: all engines and precisions",
        batch_gain("1"),
        above=1,
    ),
    Claim(
        "batch-whole-processor",
        "On the whole processor, a batch of 64 beats single words on every engine.",
        "throughput ratio, batch 64 / 1, smallest: all engines and precisions",
        batch_gain("all"),
        above=1,
    ),
    Claim(
        "batch-size-matters",
        "A well-chosen batch size is worth 20 % or more.",
        "throughput ratio, best / median batch size: FP32, whole processor",
        good_batch_size,
        above=1.2,
    ),
    Claim(
        "tvm-batch-flat",
        "TVM is about as fast with a batch as with single words (within 20 %).",
        "throughput ratio, batch 64 / 1: FP32, whole processor",
        tvm_batch,
        above=0.8,
        below=1.2,
    ),
    Claim(
        "tvm-leads-single",
        "TVM is among the fastest for single words: none of the study's engines is more than a tenth faster.",
        "throughput ratio, TVM / fastest other: FP32, whole processor",
        tvm_against_others(SINGLE, largest=False),
        above=0.9,
    ),
    Claim(
        "tvm-trails-batch",
        "TVM is the slowest of the study's engines at batch size 64.",
        "throughput ratio, TVM / slowest other: FP32, whole processor",
        tvm_against_others(BATCH, largest=True),
        below=1,
    ),
    Claim(
        "int8-muted",
        "INT8 gains far less than the factor of four that its narrower numbers promise (less than 3), TVM excepted.",
        "throughput ratio, INT8 / FP32, largest: the study's engines, all batch sizes and cores",
        int8_gain,
        below=3,
    ),
    Claim(
        "max-pool-hurts",
        "Quantising the max-pool layers slows ONNX Runtime down: leaving them alone is faster.",
        "throughput ratio, max-pool left alone / quantised",
        max_pool_left_alone,
        above=1,
    ),
    Claim(
        "cpu-beats-fpga-dense",
        "For the dense INT8 network, a CPU with 24 cores outruns the FPGA by far (at least twice).",
        "throughput ratio, CPU / published FPGA",
        cpu_over_fpga_dense,
        above=2,
    ),
    Claim(
        "onnxruntime-ignores-sparsity",
        "ONNX Runtime gains nothing from a sparse network (less than 5 %).",
        "throughput ratio, sparse / dense, largest: FP32 and INT8, all batch sizes and cores",
        sparse_gain(["onnxruntime"], everywhere=True),
        below=1 + SAME,
    ),
    Claim(
        "openvino-ignores-sparsity",
        "OpenVINO gains nothing from a sparse network (less than 5 %).",
        "throughput ratio, sparse / dense, largest: FP32 and INT8, all batch sizes and cores",
        sparse_gain(["openvino"], everywhere=True),
        below=1 + SAME,
    ),
    Claim(
        "deepsparse-uses-sparsity",
        "DeepSparse runs a sparse network faster than the dense one.",
        "throughput ratio, sparse / dense, largest: FP32, batch 64, whole processor",
        sparse_gain(["deepsparse"], "fp32"),
        above=1 + SAME,
    ),
    Claim(
        "tvm-uses-sparsity",
        "TVM runs a sparse network faster than the dense one, through its linear layers.",
        "throughput ratio, sparse / dense, largest: FP32, batch 64, whole processor",
        sparse_gain(["tvm"], "fp32"),
        above=1 + SAME,
    ),
    Claim(
        "sparse-gain-2-3",
        "The best that a CPU engine makes of a sparse network is two to three times its dense speed.",
        "throughput ratio, sparse / dense, largest: the study's engines, same precision, batch 64, whole processor",
        sparse_gain(STUDY_ENGINES),
        above=2,
        below=3,
    ),
    # Ours: what a reader of the study asks next.
    Claim(
        "sparse-beats-small-dense",
        "At the same accuracy (within half a point), the sparse network is faster than every smaller dense one.",
        "throughput ratio, fastest sparse / fastest smaller dense: batch 64, whole processor",
        against_small_dense,
        above=1,
    ),
    Claim(
        "no-engine-uses-both",
        "No CPU engine makes sparse activations multiply the gain of sparse weights.",
        "throughput ratio, both sparse / weights sparse: dualsparse, INT8, batch 64, one core",
        both_sparsities,
        below=1 + SAME,
    ),
    Claim(
        "fpga-sparse-dense-6",
        "The FPGA with sparse weights is six times as fast as the best sparse result of a 24-core CPU.",
        "throughput ratio, published FPGA / CPU",
        fpga_over_cpu("sparse-dense"),
        above=6,
    ),
    Claim(
        "fpga-sparse-sparse-12",
        "The FPGA with sparse weights and activations is over twelve times as fast as the best of a 24-core CPU.",
        "throughput ratio, published FPGA / CPU",
        fpga_over_cpu("sparse-sparse"),
        above=12,
    ),
    Claim(
        "fpga-gain-112",
        "Both sparsities together make the FPGA 112 times as fast as its dense network.",
        "throughput ratio, sparse / dense, FPGA",
        fpga_gain,
        above=112,
    ),
]


def check(claim: Claim, study: Study) -> dict[str, object]:
    """Return the claim's row of claims.csv."""
    finding = claim.measure(study)
    estimate = finding.estimate
    if finding.obstacle:
        verdict, reason = UNDECIDED, finding.obstacle
        if estimate:
            reason += f" ({finding.detail})"
    elif estimate is None:
        verdict, reason = UNDECIDED, finding.detail or "nothing was measured"
    elif not estimate.has_interval:
        verdict, reason = UNDECIDED, f"{finding.detail}; one round or seed gives no interval"
    else:
        verdict = claim.verdict(estimate)
        crosses = "; the interval crosses the claim's limit" if verdict == OPEN else ""
        reason = finding.detail + crosses
    values = (estimate.value, estimate.low, estimate.high) if estimate else ("", "", "")
    written = [f"{value:.4g}" if value != "" and np.isfinite(value) else "" for value in values]
    row = [claim.name, claim.statement, claim.quantity, *written, verdict, reason]
    return dict(zip(COLUMNS, row, strict=True))

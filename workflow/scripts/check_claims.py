"""Hold what the reproduced study says against what was measured here: a row per claim, with a verdict and its reason.

A verdict rests on an interval. A claim is confirmed if the whole interval lies where the claim puts it, refuted if the
whole interval lies elsewhere. Everything between, everything that was not measured, and everything about a machine that
this one is not, is not measurable here, and the row says why.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from files import InputError, atomic_path, run_program
from measurements import (
    data_title,
    dense_network,
    engine_title,
    input_parser,
    load_ablation,
    load_accuracies,
    load_benchmarks,
    load_networks,
    load_published,
    load_specs,
    select,
    sparse_networks,
    why_missing,
)
from ratios import Estimate, fastest, median_interval, ratio, throughput

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "not measurable here"
COLUMNS = ["claim", "statement", "quantity", "value", "low", "high", "verdict", "reason"]

#: The engines that the reproduced study compared; what it says of "every engine" was said of them.
STUDY_ENGINES = ["onnxruntime", "openvino", "tvm", "deepsparse"]
STUDY_CORES = 24
SINGLE, BATCH = 1, 64
#: The study's sparse network keeps 5 % of its weights. What a sweep finds far beyond that says nothing about it.
SPARSEST = 0.04
#: Up to this share of weights left, 4 of 64 included, a network counts as about 95 % sparse.
NEAR_95 = 0.08
#: "The same speed": a difference that no user would notice.
SAME = 0.05


@dataclass
class Finding:
    """What was measured for a claim: an estimate, if there is one, and words about it."""

    estimate: Estimate | None = None
    detail: str = ""
    #: A reason why this machine or study cannot decide, whatever was measured.
    obstacle: str = ""


@dataclass
class Study:
    """The tables that the claims are held against."""

    benchmarks: pd.DataFrame
    networks: pd.DataFrame
    accuracies: pd.DataFrame
    published: pd.DataFrame
    specs: dict[str, dict]
    ablation: pd.DataFrame | None = None
    dense: str = field(init=False)
    sparse: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.dense = dense_network(self.networks)
        left = (self.networks["nonzero_weights"] / self.networks["parameters"]).groupby(self.networks["network"]).mean()
        self.sparse = [name for name in sparse_networks(self.networks) if left[name] >= SPARSEST]

    @property
    def cores(self) -> int:
        """Cores of this machine: those that the layouts of the whole processor use."""
        layouts = self.benchmarks.loc[self.benchmarks["cores"] == "all", "layout"].str.extract(r"(\d+)x(\d+)").dropna()
        return int((layouts[0].astype(int) * layouts[1].astype(int)).max()) if len(layouts) else 1

    def case(self, engine: str, **values: object) -> pd.DataFrame:
        """Return the rows of one engine's case; the dense network unless another is named."""
        return select(self.benchmarks, engine=engine, **{"network": self.dense, **values})

    def measured(self, engines: list[str] | None = None) -> list[str]:
        """Return the engines of the study's own list (or of `engines`) that this run has any row of."""
        present = set(self.benchmarks["engine"])
        return [engine for engine in engines or STUDY_ENGINES if engine in present]

    def chip(self, network: str) -> float:
        """Return the published throughput of the full FPGA in words/s."""
        rows = select(self.published, network=network, scope="full chip")
        if not len(rows):
            raise InputError(f"the published numbers have no row for network {network!r}, scope 'full chip'")
        return float(rows["throughput_words_per_s"].iloc[0])


Measure = Callable[[Study], Finding]


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
        if estimate.low >= self.above and estimate.high <= self.below:
            return CONFIRMED
        if estimate.high < self.above or estimate.low > self.below:
            return REFUTED
        return UNDECIDED


# ---------------------------------------------------------------------------------------------------- measuring


def extreme(pairs: dict[str, tuple[pd.DataFrame, pd.DataFrame]], pick: Callable) -> Finding:
    """Return the smallest or largest (`pick`) of several ratios: it decides what is said of all or of any.

    Args:
        pairs: per label, the rows whose throughput is divided, and the rows by whose it is divided.
    """
    ratios = {label: ratio(*pair) for label, pair in pairs.items()}
    missing = [label for label, estimate in ratios.items() if estimate is None]
    found = {label: estimate for label, estimate in ratios.items() if estimate}
    gaps = f"without a speed: {', '.join(missing)}" if missing else ""
    if not found:
        return Finding(obstacle=_first_reason(pairs))
    label = pick(found, key=lambda name: found[name].value)
    detail = "; ".join(part for part in (f"{label}{', of ' + str(len(found)) if len(found) > 1 else ''}", gaps) if part)
    return Finding(found[label], detail)


def _first_reason(pairs: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> str:
    for label, pair in pairs.items():
        for rows in pair:
            if throughput(rows) is None:
                return f"{label}: {why_missing(rows)}"
    return "no round measured both sides" if pairs else "none of the engines is in this study"


def batch_gain(cores: str) -> Measure:
    """The smallest gain of a batch over single words among all engines."""

    def measure(study: Study) -> Finding:
        pairs = {}
        for engine in study.measured(list(dict.fromkeys(study.benchmarks["engine"]))):
            case = study.case(engine, precision="fp32", cores=cores)
            pairs[engine_title(engine)] = (select(case, batch_size=BATCH), select(case, batch_size=SINGLE))
        return extreme(pairs, min)

    return measure


def against_pytorch(study: Study) -> Finding:
    """The slowest ONNX engine against PyTorch's faster way, eager or TorchScript."""
    pairs = {}
    for engine in study.measured():
        for other in study.measured(["pytorch_eager", "pytorch_torchscript"]):
            sizes = {"precision": "fp32", "cores": "all", "batch_size": BATCH}
            label = f"{engine_title(engine)} against {engine_title(other)}"
            pairs[label] = (study.case(engine, **sizes), study.case(other, **sizes))
    return extreme(pairs, min)


def single_word_on_all_cores(study: Study) -> Finding:
    """The smallest gain of one instance with all threads over one thread, for single words."""
    if study.cores < 2:
        return Finding(obstacle="this machine has one core")
    pairs = {}
    for engine in study.measured():
        case = study.case(engine, precision="fp32", batch_size=SINGLE)
        whole = select(case, cores="all")
        # Several instances side by side speed up many words, not one.
        whole = whole[whole["layout"].str.startswith("1x") | (whole["status"] != "ok")]
        if len(whole) or not len(case):
            pairs[engine_title(engine)] = (whole, select(case, cores="1"))
    if not pairs:
        return Finding(obstacle="the best layout of every engine runs several instances, none splits a single word")
    return extreme(pairs, min)


def good_batch_size(study: Study) -> Finding:
    """The largest step between neighbouring batch sizes that are no longer small, over the engines' median."""
    gains = []
    for engine in study.measured():
        cases = study.case(engine, precision="fp32", cores="all")
        sizes = sorted(size for size in set(cases["batch_size"]) if size >= 16)
        if len(sizes) < 3:
            continue
        speeds = pd.DataFrame(
            {
                size: select(cases, batch_size=size, status="ok").groupby("round")["throughput_words_per_s"].median()
                for size in sizes
            }
        )
        gains.append(speeds.max(axis=1) / speeds.median(axis=1))
    if not gains:
        return Finding(obstacle="needs at least three batch sizes from 16 on; this study has fewer")
    return Finding(
        median_interval(pd.concat(gains, axis=1).median(axis=1)), "best of the batch sizes over their median"
    )


def tvm_batch(study: Study) -> Finding:
    """TVM's gain of a batch over single words."""
    case = study.case("tvm", precision="fp32", cores="all")
    return extreme({"TVM": (select(case, batch_size=BATCH), select(case, batch_size=SINGLE))}, max)


def tvm_against_others(batch_size: int, pick: Callable) -> Measure:
    """TVM's speed over that of the fastest (pick=min) or slowest (pick=max) other engine of the study."""

    def measure(study: Study) -> Finding:
        case = {"precision": "fp32", "cores": "all", "batch_size": batch_size}
        others = [engine for engine in study.measured() if engine != "tvm"]
        pairs = {
            f"TVM against {engine_title(engine)}": (study.case("tvm", **case), study.case(engine, **case))
            for engine in others
        }
        return extreme(pairs, pick)

    return measure


def int8_gain(study: Study) -> Finding:
    """The largest gain of INT8 over FP32 among the study's engines but TVM."""
    pairs = {}
    for engine in study.measured(["onnxruntime", "openvino", "deepsparse"]):
        case = study.case(engine, batch_size=BATCH, cores="all")
        pairs[engine_title(engine)] = (select(case, precision="int8"), select(case, precision="fp32"))
    return extreme(pairs, max)


def max_pool_left_alone(study: Study) -> Finding:
    """ONNX Runtime's speed with max-pool left in FP32 over that with every operator quantised."""
    if study.ablation is None:
        return Finding(obstacle="this study has no ablation of the quantised operators")
    rows = select(study.ablation, engine="onnxruntime")
    whole, left = select(rows, variant="every operator"), select(rows, variant="max-pool left in FP32")
    for name, case in (("every operator", whole), ("max-pool left in FP32", left)):
        if not (case["status"] == "ok").any():
            return Finding(obstacle=f"ONNX Runtime, {name}: {why_missing(case)}")
    whole, left = whole.iloc[0], left.iloc[0]
    # Both are known by the range of their gains over FP32 only; the quotient's widest range is on the safe side.
    low, high = left["ratio_low"] / whole["ratio_high"], left["ratio_high"] / whole["ratio_low"]
    return Finding(Estimate(left["ratio"] / whole["ratio"], low, high, 1), "ONNX Runtime, QDQ, one core")


def sparse_gain(engines: list[str], pick: Callable, precision: str | None = None) -> Measure:
    """The gain of each engine's best sparse network over the dense one, smallest or largest over the engines."""

    def measure(study: Study) -> Finding:
        if not study.sparse:
            return Finding(obstacle="this study has no sparse network")
        pairs, present = {}, study.measured(engines)
        if not present:
            return Finding(obstacle=f"{' and '.join(map(engine_title, engines))}: not in this study")
        for engine in present:
            for kind in ["fp32", "int8"] if precision is None else [precision]:
                case = {"precision": kind, "batch_size": BATCH, "cores": "all"}
                dense = study.case(engine, **case)
                tried = {
                    f"{engine_title(engine)} {kind.upper()}, {network}": (
                        study.case(engine, **{**case, "network": network}),
                        dense,
                    )
                    for network in study.sparse
                }
                measured = {label: pair for label, pair in tried.items() if ratio(*pair)}
                if measured:
                    best = max(measured, key=lambda label: ratio(*measured[label]).value)
                    pairs[best] = measured[best]
                elif any(len(pair[0]) for pair in tried.values()):
                    label, pair = next(iter(tried.items()))
                    pairs[label] = pair
        return extreme(pairs, pick)

    return measure


def both_sparsities(study: Study) -> Finding:
    """What sparse activations add on top of sparse weights in dualsparse: best network of either kind, INT8."""
    cases = select(study.benchmarks, engine="dualsparse", precision="int8", batch_size=BATCH, cores="1")
    cases = cases[cases["network"].isin(study.sparse)]
    sparse_activations = {name for name, spec in study.specs.items() if "column_gate" in spec or "k_winners" in spec}
    gated = cases["network"].isin(sparse_activations)
    weights, both = fastest(cases[~gated], "network"), fastest(cases[gated], "network")
    if not throughput(weights) or not throughput(both):
        return Finding(obstacle="dualsparse has no speed for a network of each kind: sparse weights alone, and both")
    label = f"dualsparse INT8, one core: {both['network'].iloc[0]} against {weights['network'].iloc[0]}"
    return extreme({label: (both, weights)}, max)


def best_cpu(study: Study, networks: list[str], engines: list[str]) -> tuple[str, Estimate] | None:
    """Return label and throughput of the fastest case on the whole processor, over precisions."""
    cases = select(study.benchmarks, batch_size=BATCH, cores="all")
    found = {}
    for (engine, network, precision), rows in cases.groupby(["engine", "network", "precision"], sort=False):
        if engine in engines and network in networks and (estimate := throughput(rows)):
            found[f"{engine_title(engine)} {precision.upper()}, {network}"] = estimate
    if not found:
        return None
    label = max(found, key=lambda name: found[name].value)
    return label, found[label]


def cpu_over_fpga_dense(study: Study) -> Finding:
    """The fastest dense INT8 engine over the published dense FPGA."""
    cases = select(study.benchmarks, network=study.dense, batch_size=BATCH, cores="all", precision="int8")
    found = {engine: throughput(rows) for engine, rows in cases.groupby("engine") if throughput(rows)}
    if not found:
        return Finding(obstacle="no engine has a speed for the dense INT8 network on the whole processor")
    engine = max(found, key=lambda name: found[name].value)
    return _only_on_many_cores(
        study, Finding(found[engine].scaled(1 / study.chip("dense")), f"{engine_title(engine)} INT8")
    )


def fpga_over_cpu(network: str) -> Measure:
    """The published sparse FPGA over the fastest sparse result of the engines that the study had."""

    def measure(study: Study) -> Finding:
        best = best_cpu(study, study.sparse, STUDY_ENGINES)
        if best is None:
            return Finding(obstacle="none of the study's engines has a speed for a sparse network here")
        label, estimate = best
        fpga = study.chip(network)
        low, high = fpga / estimate.high, fpga / estimate.low
        return _only_on_many_cores(
            study, Finding(Estimate(fpga / estimate.value, low, high, estimate.rounds), f"best here: {label}")
        )

    return measure


def _only_on_many_cores(study: Study, finding: Finding) -> Finding:
    if study.cores < STUDY_CORES:
        finding.obstacle = f"said of a processor with {STUDY_CORES} cores; this one has {study.cores}"
    return finding


def fpga_gain(study: Study) -> Finding:
    """Nothing to measure without the FPGA."""
    gain = study.chip("sparse-sparse") / study.chip("dense")
    return Finding(obstacle=f"no FPGA here; the published throughputs give {gain:.1f}")


def dense_accuracy(study: Study) -> Finding:
    """Accuracy of the dense network over the seeds, in percent."""
    rows = select(study.networks, network=study.dense)
    finding = Finding(_over_seeds(100 * rows["accuracy"]), f"{len(rows)} seeds, {data_title(rows)}")
    if not rows["dataset"].str.contains("speech_commands").all():
        finding.obstacle = "said of Google Speech Commands"
    return finding


def sparse_accuracy(study: Study) -> Finding:
    """Accuracy that the best network of about 95 % sparsity loses, seed by seed, in points."""
    dense = select(study.networks, network=study.dense).set_index("seed")["accuracy"]
    losses = {}
    for network in study.sparse:
        rows = select(study.networks, network=network).set_index("seed")
        if (rows["nonzero_weights"] < NEAR_95 * rows["parameters"]).all():
            losses[network] = _over_seeds(100 * (dense - rows["accuracy"]).dropna())
    losses = {name: estimate for name, estimate in losses.items() if estimate}
    if not losses:
        return Finding(obstacle="no network here is about 95 % sparse")
    best = min(losses, key=lambda name: losses[name].value)
    return Finding(losses[best], f"{best}, {losses[best].rounds} seeds")


def _over_seeds(values: pd.Series) -> Estimate | None:
    return median_interval(values.to_numpy())


def fewer_macs(study: Study) -> Finding:
    """Multiply-accumulates of the dense network over those of the one nearest to 95 % sparsity."""
    mean = study.networks.groupby("network")[["nonzero_weights", "nonzero_macs", "parameters"]].mean()
    sparse = mean[mean["nonzero_weights"] < NEAR_95 * mean["parameters"]]
    if not len(sparse):
        return Finding(obstacle="no network here is about 95 % sparse")
    # The study's network is the one at 95 %: the nearest to it, not the sparsest of a sweep.
    name = (sparse["nonzero_weights"] / sparse["parameters"] - 0.05).abs().idxmin()
    gain = float(mean.loc[study.dense, "nonzero_macs"] / sparse.loc[name, "nonzero_macs"])
    return Finding(Estimate(gain, gain, gain, 1), f"counted, not timed: {name}")


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
        "throughput ratio, slowest pair",
        against_pytorch,
        above=1,
    ),
    Claim(
        "one-word-many-threads",
        "More threads make even a single word faster, on every engine.",
        "throughput ratio, all threads / one, smallest",
        single_word_on_all_cores,
        above=1,
    ),
    Claim(
        "batch-one-thread",
        "A batch of 64 is more efficient than single words on every engine, even on one thread.",
        "throughput ratio, batch 64 / 1, smallest",
        batch_gain("1"),
        above=1,
    ),
    Claim(
        "batch-whole-processor",
        "On the whole processor, a batch of 64 beats single words on every engine.",
        "throughput ratio, batch 64 / 1, smallest",
        batch_gain("all"),
        above=1,
    ),
    Claim(
        "batch-size-matters",
        "A well-chosen batch size is worth 20 % or more.",
        "throughput ratio, best / median batch size",
        good_batch_size,
        above=1.2,
    ),
    Claim(
        "tvm-batch-flat",
        "TVM is about as fast with a batch as with single words (within 20 %).",
        "throughput ratio, batch 64 / 1",
        tvm_batch,
        above=0.8,
        below=1.2,
    ),
    Claim(
        "tvm-leads-single",
        "TVM is among the fastest for single words: none of the study's engines is more than a tenth faster.",
        "throughput ratio, TVM / fastest other",
        tvm_against_others(SINGLE, min),
        above=0.9,
    ),
    Claim(
        "tvm-trails-batch",
        "TVM is the slowest of the study's engines at batch size 64.",
        "throughput ratio, TVM / slowest other",
        tvm_against_others(BATCH, max),
        below=1,
    ),
    Claim(
        "int8-muted",
        "INT8 gains far less than the factor of four that its narrower numbers promise (less than 3), TVM excepted.",
        "throughput ratio, INT8 / FP32, largest",
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
        "throughput ratio, sparse / dense, largest",
        sparse_gain(["onnxruntime"], max),
        below=1 + SAME,
    ),
    Claim(
        "openvino-ignores-sparsity",
        "OpenVINO gains nothing from a sparse network (less than 5 %).",
        "throughput ratio, sparse / dense, largest",
        sparse_gain(["openvino"], max),
        below=1 + SAME,
    ),
    Claim(
        "deepsparse-uses-sparsity",
        "DeepSparse runs a sparse network faster than the dense one.",
        "throughput ratio, sparse / dense, FP32",
        sparse_gain(["deepsparse"], max, "fp32"),
        above=1 + SAME,
    ),
    Claim(
        "tvm-uses-sparsity",
        "TVM runs a sparse network faster than the dense one, through its linear layers.",
        "throughput ratio, sparse / dense, FP32",
        sparse_gain(["tvm"], max, "fp32"),
        above=1 + SAME,
    ),
    Claim(
        "sparse-gain-2-3",
        "The best that a CPU engine makes of a sparse network is two to three times its dense speed.",
        "throughput ratio, sparse / dense, largest",
        sparse_gain(STUDY_ENGINES, max),
        above=2,
        below=3,
    ),
    Claim(
        "no-engine-uses-both",
        "No CPU engine makes sparse activations multiply the gain of sparse weights.",
        "throughput ratio, both sparse / weights sparse",
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
        crosses = "; the interval crosses the claim's limit" if verdict == UNDECIDED else ""
        reason = finding.detail + crosses
    values = (estimate.value, estimate.low, estimate.high) if estimate else ("", "", "")
    written = [f"{value:.4g}" if value != "" and np.isfinite(value) else "" for value in values]
    row = [claim.name, claim.statement, claim.quantity, *written, verdict, reason]
    return dict(zip(COLUMNS, row, strict=True))


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(
        __doc__, "benchmarks", "networks", "accuracies", "config", "published", "ablation"
    ).parse_args(arguments)
    study = Study(
        load_benchmarks(options.benchmarks),
        load_networks(options.networks),
        load_accuracies(options.accuracies),
        load_published(options.published),
        load_specs(options.config),
        load_ablation(options.ablation) if options.ablation else None,
    )
    with atomic_path(options.out) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(check(claim, study) for claim in CLAIMS)


if __name__ == "__main__":
    run_program(main)

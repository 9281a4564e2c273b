"""What each claim of the study is measured by: from the tables to an estimate, or to the reason that there is none."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from sparsemark.files import InputError
from sparsemark.results.accuracies import accuracy, clips_of, difference, in_percent, share_right
from sparsemark.results.measurements import (
    data_title,
    dense_network,
    engine_title,
    engines_and_precisions,
    precision_title,
    select,
    share_title,
    small_dense_networks,
    sparse_networks,
    why_missing,
    with_interval,
)
from sparsemark.results.ratios import SHARE, Estimate, extreme_ratio, fastest, mean_interval, ratio, throughput

#: The engines that the reproduced study compared; what it says of "every engine" was said of them.
STUDY_ENGINES = ["onnxruntime", "openvino", "tvm", "deepsparse"]
STUDY_CORES = 24
SINGLE, BATCH = 1, 64
#: The study's sparse network keeps 5 % of its weights. What a sweep finds far beyond that says nothing about it.
SPARSEST = 0.04
#: Up to this share of weights left, 4 of 64 included, a network counts as about 95 % sparse.
NEAR_95 = 0.08
#: "As accurate": within half a point, as for the claim about sparse networks.
SAME_ACCURACY = 0.005
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
        left = (self.networks["nonzero_weights"] / self.networks["weights"]).groupby(self.networks["network"]).mean()
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

    def dense_kinds(self) -> list[tuple[str, str]]:
        """Return the engines and precisions that this run has any row of the dense network of."""
        return engines_and_precisions(select(self.benchmarks, network=self.dense))

    def uses(self, *engines: str) -> list[tuple[dict[str, object], str]]:
        """Return the batch sizes and cores that all `engines` have rows of, as a selection and in words."""
        shares = [
            set(select(self.benchmarks, engine=engine)[SHARE].itertuples(index=False, name=None)) for engine in engines
        ]
        common = sorted(set.intersection(*shares))
        return [({"batch_size": size, "cores": cores}, share_title(size, cores)) for size, cores in common]

    def chip(self, network: str) -> float:
        """Return the published throughput of the full FPGA in words/s."""
        rows = select(self.published, network=network, scope="full chip")
        if not len(rows):
            raise InputError(f"the published numbers have no row for network {network!r}, scope 'full chip'")
        return float(rows["throughput_words_per_s"].iloc[0])


Measure = Callable[[Study], Finding]


def extreme(pairs: dict[str, tuple[pd.DataFrame, pd.DataFrame]], largest: bool) -> Finding:
    """Return the smallest or largest of several ratios: it decides what is said of all or of any.

    Args:
        pairs: per label, the rows whose throughput is divided, and the rows by whose it is divided.
    """
    found = extreme_ratio(pairs, largest)
    if found is None:
        return Finding(obstacle=_first_reason(pairs))
    label, estimate = found
    missing = [name for name, pair in pairs.items() if ratio(*pair) is None]
    detail = f"{label}, of {len(pairs) - len(missing)}" if len(pairs) - len(missing) > 1 else label
    return Finding(estimate, detail + (f"; without a speed: {', '.join(missing)}" if missing else ""))


def _first_reason(pairs: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> str:
    for label, pair in pairs.items():
        for rows in pair:
            if throughput(rows) is None:
                return f"{label}: {why_missing(rows)}"
    return "the references of the two were not compared" if pairs else "none of the engines is in this study"


def batch_gain(cores: str) -> Measure:
    """The smallest gain of a batch over single words among all engines and precisions."""

    def measure(study: Study) -> Finding:
        pairs = {}
        for engine, precision in study.dense_kinds():
            case = study.case(engine, precision=precision, cores=cores)
            if len(case):
                sizes = (select(case, batch_size=BATCH), select(case, batch_size=SINGLE))
                pairs[f"{engine_title(engine)} {precision_title(precision)}"] = sizes
        return extreme(pairs, largest=False)

    return measure


def against_pytorch(study: Study) -> Finding:
    """The slowest ONNX engine of the study against PyTorch's ways, eager and TorchScript: FP32, every batch size."""
    pairs = {}
    for engine in study.measured():
        for other in study.measured(["pytorch_eager", "pytorch_torchscript"]):
            for use, title in study.uses(engine, other):
                label = f"{engine_title(engine)} against {engine_title(other)}, {title}"
                pairs[label] = tuple(study.case(name, precision="fp32", **use) for name in (engine, other))
    return extreme(pairs, largest=False)


def single_word_on_all_cores(study: Study) -> Finding:
    """The smallest gain of one instance with all threads over one thread for single words: engines, precisions."""
    if study.cores < 2:
        return Finding(obstacle="this machine has one core")
    pairs, several = {}, []
    for engine, precision in study.dense_kinds():
        case = study.case(engine, precision=precision, batch_size=SINGLE)
        label = f"{engine_title(engine)} {precision_title(precision)}"
        whole = select(case, cores="all")
        # Several instances side by side speed up many words, not one.
        split = whole[whole["layout"].str.startswith("1x") | (whole["status"] != "ok")]
        if len(split):
            pairs[label] = (split, select(case, cores="1"))
        elif len(whole):
            several.append(label)
    if not pairs:
        return Finding(obstacle="no engine splits a single word in its best layout of the whole processor")
    finding = extreme(pairs, largest=False)
    if several:
        finding.detail += f"; left out, several instances are faster there: {', '.join(several)}"
    return finding


def good_batch_size(study: Study) -> Finding:
    """The best batch size over the middle one, of those that are no longer small, for the engine in the middle."""
    gains = []
    for engine in study.measured():
        cases = study.case(engine, precision="fp32", cores="all")
        sized = [rows for size, rows in cases.groupby("batch_size") if size >= 16 and throughput(rows)]
        if len(sized) >= 3:
            ordered = sorted(sized, key=lambda rows: throughput(rows).value)
            best, middle = ordered[-1], ordered[(len(ordered) - 1) // 2]
            label = f"{engine_title(engine)}: {best['batch_size'].iloc[0]} against {middle['batch_size'].iloc[0]}"
            if gain := ratio(best, middle):
                gains.append((gain, label))
    if not gains:
        return Finding(obstacle="needs at least three batch sizes from 16 on; this study has fewer")
    gain, label = sorted(gains, key=lambda found: found[0].value)[len(gains) // 2]
    return Finding(gain, f"{label}, the median of {len(gains)} engines")


def tvm_batch(study: Study) -> Finding:
    """TVM's gain of a batch over single words."""
    case = study.case("tvm", precision="fp32", cores="all")
    return extreme({"TVM": (select(case, batch_size=BATCH), select(case, batch_size=SINGLE))}, largest=True)


def tvm_against_others(batch_size: int, largest: bool) -> Measure:
    """TVM's speed over that of the fastest other engine of the study, or of the slowest (`largest`)."""

    def measure(study: Study) -> Finding:
        case = {"precision": "fp32", "cores": "all", "batch_size": batch_size}
        others = [engine for engine in study.measured() if engine != "tvm"]
        pairs = {
            f"TVM against {engine_title(engine)}": (study.case("tvm", **case), study.case(engine, **case))
            for engine in others
        }
        return extreme(pairs, largest)

    return measure


def int8_gain(study: Study) -> Finding:
    """The largest gain of INT8 over FP32 among the study's engines but TVM, over batch sizes and cores."""
    pairs = {}
    for engine in study.measured(["onnxruntime", "openvino", "deepsparse"]):
        for use, title in study.uses(engine):
            case = study.case(engine, **use)
            if len(int8 := select(case, precision="int8")):
                pairs[f"{engine_title(engine)}, {title}"] = (int8, select(case, precision="fp32"))
    return extreme(pairs, largest=True)


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


def sparse_gain(engines: list[str], precision: str | None = None, *, everywhere: bool = False) -> Measure:
    """The largest gain of a sparse network over the dense one, over engines, precisions and networks.

    It is that of the study's figure 5, batch size 64 on the whole processor, or `everywhere` the largest of all uses.
    """

    def measure(study: Study) -> Finding:
        if not study.sparse:
            return Finding(obstacle="this study has no sparse network")
        present = study.measured(engines)
        if not present:
            return Finding(obstacle=f"{' and '.join(map(engine_title, engines))}: not in this study")
        pairs = {}
        for engine in present:
            for use, title in study.uses(engine) if everywhere else [({"batch_size": BATCH, "cores": "all"}, "")]:
                for kind in ["fp32", "int8"] if precision is None else [precision]:
                    for network in study.sparse:
                        rows = study.case(engine, **use, precision=kind, network=network)
                        if len(rows):
                            label = ", ".join(filter(None, [f"{engine_title(engine)} {kind.upper()}", network, title]))
                            pairs[label] = (rows, study.case(engine, **use, precision=kind))
        return extreme(pairs, largest=True)

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
    return extreme({label: (both, weights)}, largest=True)


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
    of_seeds = rows.set_index("seed")["accuracy"].dropna()
    by_clips = share_right(of_seeds, clips_of(rows, study.dense))
    estimate = _also_over_seeds(by_clips.scaled(100), 100 * of_seeds) if by_clips else None
    detail = f"{in_percent(by_clips)} % by the test clips, {_seeds(len(of_seeds))}, {data_title(rows)}"
    finding = Finding(estimate, detail)
    if not rows["dataset"].str.contains("speech_commands").all():
        finding.obstacle = "said of Google Speech Commands"
    return finding


def sparse_accuracy(study: Study) -> Finding:
    """Accuracy that the best network of about 95 % sparsity loses, seed by seed, in points."""
    dense = select(study.networks, network=study.dense).set_index("seed")["accuracy"].dropna()
    losses, clips_alone = {}, {}
    for network in study.sparse:
        rows = select(study.networks, network=network).set_index("seed")
        if (rows["nonzero_weights"] < NEAR_95 * rows["weights"]).all():
            own = rows["accuracy"].dropna()
            if by_clips := difference(dense, own, clips_of(study.networks, network)):
                clips_alone[network] = by_clips
                losses[network] = _also_over_seeds(by_clips, 100 * (dense - own).dropna())
    if not losses:
        return Finding(obstacle="no network here is about 95 % sparse")
    best = min(losses, key=lambda name: losses[name].value)
    told = with_interval(clips_alone[best], "{:+.1f}".format)
    seeds = _seeds(losses[best].rounds)
    return Finding(losses[best], f"{best}: {told} by the test clips, {seeds}, {data_title(study.networks)}")


def _also_over_seeds(by_clips: Estimate, values: pd.Series) -> Estimate:
    """Return an estimate by the clips with an interval that covers that over seeds, too; one seed gives none.

    What is said of a kind of network needs both: other clips, and other trainings.
    """
    by_seeds = mean_interval(values)
    low, high = np.min([by_clips.low, by_seeds.low]), np.max([by_clips.high, by_seeds.high])
    return replace(by_clips, low=low, high=high)


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def against_small_dense(study: Study) -> Finding:
    """The fastest sparse network over the fastest smaller dense one that is as accurate."""
    cases = select(study.benchmarks, batch_size=BATCH, cores="all")

    def measured(networks: list[str]) -> list[tuple[float, float, str, pd.DataFrame]]:
        """Return (speed, accuracy, label, rows) of every case that has both, fastest first."""
        own = cases[cases["network"].isin(networks)]
        found = []
        for (network, precision, engine), rows in own.groupby(["network", "precision", "engine"]):
            speed = throughput(rows)
            correct = accuracy(study.networks, study.accuracies, network, precision, engine)
            if speed and correct:
                label = f"{network} ({engine_title(engine)} {precision_title(precision)})"
                found.append((speed.value, correct.value, label, rows))
        return sorted(found, key=lambda case: -case[0])

    sparse, small = measured(sparse_networks(study.networks)), measured(small_dense_networks(study.networks))
    if not sparse or not small:
        return Finding(
            obstacle=f"no {'smaller dense' if sparse else 'sparse'} network has a speed and an accuracy here"
        )
    _, correct, label, rows = sparse[0]
    told = f"{label}, {100 * correct:.1f} %"
    rivals = [case for case in small if case[1] >= correct - SAME_ACCURACY]
    if not rivals:
        best = max(small, key=lambda case: case[1])
        return Finding(
            obstacle=f"no smaller dense network is as accurate as {told}: {best[2]} has {100 * best[1]:.1f} %"
        )
    _, other, rival, rival_rows = rivals[0]
    return extreme({f"{told}, against {rival}, {100 * other:.1f} %": (rows, rival_rows)}, largest=True)


def fewer_macs(study: Study) -> Finding:
    """Multiply-accumulates of the dense network over those of the one nearest to 95 % sparsity."""
    mean = study.networks.groupby("network")[["nonzero_weights", "nonzero_macs", "weights"]].mean()
    sparse = mean[mean["nonzero_weights"] < NEAR_95 * mean["weights"]]
    if not len(sparse):
        return Finding(obstacle="no network here is about 95 % sparse")
    # The study's network is the one at 95 %: the nearest to it, not the sparsest of a sweep.
    name = (sparse["nonzero_weights"] / sparse["weights"] - 0.05).abs().idxmin()
    gain = float(mean.loc[study.dense, "nonzero_macs"] / sparse.loc[name, "nonzero_macs"])
    return Finding(Estimate(gain, gain, gain, 1), f"counted, not timed: {name}")

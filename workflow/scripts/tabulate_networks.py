"""Table of the networks: accuracy, what is left of weights and work, and the gain that each engine makes of it."""

import pandas as pd

from sparsemark.files import run_program
from sparsemark.results.accuracies import clips_of, over_seeds
from sparsemark.results.html_table import Cell, write_table
from sparsemark.results.measurements import (
    base_network,
    data_title,
    engine_title,
    engines_and_precisions,
    input_parser,
    kilo,
    load_all_networks,
    load_benchmarks,
    load_specs,
    network_kind,
    precision_title,
    select,
    times,
)
from sparsemark.results.ratios import ratio
from sparsemark.results.sparse_gains import work_left

BATCH_SIZE = 64


def made_by(rows: pd.DataFrame, spec: dict) -> str:
    """Return what made a network what it is."""
    kind = network_kind(spec)
    return {"trained": kind, "file": "from a file", "what-if": f"what-if: {kind}"}[rows["kind"].iloc[0]]


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks", "config").parse_args(arguments)
    networks = load_all_networks(options.networks)
    specs = load_specs(options.config)
    cases = select(load_benchmarks(options.benchmarks), batch_size=BATCH_SIZE, cores="all")
    kinds = engines_and_precisions(cases)
    fixed = [
        "Network",
        "Made sparse by",
        "Accuracy, %",
        "Seeds",
        "Parameters",
        "Non-zero weights",
        "MACs",
        "Remaining MACs",
        "Gain the MACs allow",
    ]
    header = fixed + [f"{engine_title(engine)} {precision_title(precision)}" for engine, precision in kinds]
    rows = []
    for network in dict.fromkeys(networks["network"]):
        trained = select(networks, network=network)
        correct = trained["accuracy"].dropna()
        base = base_network(networks, network)
        weights, macs = work_left(networks, network)
        row = [
            network,
            made_by(trained, specs.get(network, {})),
            over_seeds(correct, clips_of(networks, network)) if len(correct) else "–",
            len(trained),
            f"{trained['parameters'].iloc[0]:,}",
            f"{kilo(weights)} ({weights / trained['weights'].mean():.1%})",
            kilo(trained["macs"].mean()),
            f"{kilo(macs)} ({macs / trained['macs'].mean():.1%})",
            times(work_left(networks, base)[1] / macs),
        ]
        for engine, precision in kinds:
            own = select(cases, engine=engine, precision=precision)
            gain = ratio(select(own, network=network), select(own, network=base))
            told = gain and gain.is_told_from_one
            row.append(Cell(times(gain.value) if gain else "–", "" if told else "quiet"))
        rows.append(row)
    note = (
        f"Accuracy on the test set of {data_title(networks)}, FP32: mean, 95 % interval for that many clips, and range "
        "over seeds where there are several. Non-zero weights and "
        "remaining MACs count zero weights only, not zero activations. The columns of engines: throughput over that of "
        "the dense network, or of the file that a network was pruned from, at the same precision, whole processor, "
        f"batch size {BATCH_SIZE}; grey where not told from 1. A what-if lost its weights without any training: "
        "it tells of speed only. Engines without any gain are left out."
    )
    write_table(options.out, "Networks", note, header, rows, [name for name in header if name not in fixed[:2]])


if __name__ == "__main__":
    run_program(main)

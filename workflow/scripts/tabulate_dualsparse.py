"""Table of dualsparse's sparse networks on one core: how many times faster than the other engines, at what accuracy."""

import pandas as pd

from sparsemark.files import run_program
from sparsemark.results.accuracies import accuracies_of_seeds, clips_of, difference, difference_cell, over_seeds
from sparsemark.results.html_table import Cell, write_table
from sparsemark.results.measurements import (
    OURS,
    dense_network,
    engine_title,
    in_precision_order,
    input_parser,
    load_accuracies,
    load_benchmarks,
    load_networks,
    origin,
    precision_title,
    select,
    sparse_networks,
    times,
    with_interval,
)
from sparsemark.results.ratios import fastest, ratio, throughput

REFERENCE = "onnxruntime"
HEADER = [
    "Batch size",
    "Network",
    "Precision",
    "Accuracy, %",
    "Points from dense FP32",
    "Words/s, one core",
    "Over the dense FP32 network in ONNX Runtime",
    "Over the fastest dense INT8 engine",
    "Over the fastest other engine on a sparse network",
    "Whole processor over one core",
]


def gain(rows: pd.DataFrame, rival: pd.DataFrame, *, named: tuple[str, ...] = ()) -> object:
    """Return the cell that tells the gain over `rival`, with those of its columns that say who it is."""
    estimate = ratio(rows, rival)
    if estimate is None:
        return Cell("–", "quiet")
    titles = {"engine": engine_title, "precision": precision_title}
    who = ", ".join(titles.get(column, str)(rival[column].iloc[0]) for column in named)
    return with_interval(estimate, times) + (f" ({who})" if who else "")


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks", "accuracies").parse_args(arguments)
    networks = load_networks(options.networks)
    accuracies = load_accuracies(options.accuracies)
    benchmarks = load_benchmarks(options.benchmarks)
    dense, sparse = dense_network(networks), sparse_networks(networks)
    full = accuracies_of_seeds(networks, None, dense, "fp32", OURS)
    rows = []
    for batch_size in sorted(set(benchmarks["batch_size"])):
        cases = select(benchmarks, batch_size=batch_size)
        one_core, all_cores = select(cases, cores="1"), select(cases, cores="all")
        others = one_core[one_core["engine"] != OURS]
        reference = select(others, engine=REFERENCE, network=dense, precision="fp32")
        dense_int8 = fastest(select(others, network=dense, precision="int8"), "engine")
        other_sparse = fastest(others[others["network"].isin(sparse)], "engine", "network", "precision")
        own = select(one_core, engine=OURS)
        for network in sparse:
            for precision in in_precision_order(select(own, network=network)["precision"]):
                case = select(own, network=network, precision=precision)
                correct = accuracies_of_seeds(networks, accuracies, network, precision, OURS)
                clips = clips_of(networks, network)
                rows.append(
                    [
                        batch_size,
                        network,
                        precision_title(precision),
                        over_seeds(correct, clips) if len(correct) else Cell("–", "quiet"),
                        difference_cell(difference(correct, full, clips)),
                        with_interval(throughput(case)),
                        gain(case, reference),
                        gain(case, dense_int8, named=("engine",)),
                        gain(case, other_sparse, named=("engine", "network", "precision")),
                        gain(select(all_cores, engine=OURS, network=network, precision=precision), case),
                    ]
                )
    note = origin(benchmarks, networks, "Each engine runs on one core.")
    write_table(options.out, "dualsparse against the other engines", note, HEADER, rows, HEADER[3:])


if __name__ == "__main__":
    run_program(main)

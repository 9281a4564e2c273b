"""Table of all measurements: speed, latency and accuracy of every case, or why it has none."""

import pandas as pd

from sparsemark.files import run_program
from sparsemark.results.accuracies import accuracy, in_percent
from sparsemark.results.html_table import Cell, write_table
from sparsemark.results.measurements import (
    engine_title,
    in_order,
    in_precision_order,
    input_parser,
    kilo,
    load_accuracies,
    load_all_networks,
    load_benchmarks,
    origin,
    precision_title,
    select,
    why_missing,
    with_interval,
)
from sparsemark.results.ratios import rounds_measured, throughput
from sparsemark.results.sparse_gains import work_left

HEADER = [
    "Engine",
    "Network",
    "Precision",
    "Batch size",
    "Cores",
    "Layout",
    "Per second",
    "Median latency, ms",
    "Accuracy, %",
    "Non-zero weights",
    "Remaining MACs",
    "Rounds",
    "Status",
]
TEXT = {"Engine", "Network", "Precision", "Status"}


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks", "accuracies").parse_args(arguments)
    networks = load_all_networks(options.networks)
    accuracies = load_accuracies(options.accuracies)
    benchmarks = load_benchmarks(options.benchmarks)
    order = in_order(benchmarks["engine"])
    names = list(dict.fromkeys(networks["network"]))
    precisions = in_precision_order(benchmarks["precision"])
    ordered = benchmarks.sort_values(
        ["network", "precision", "batch_size", "cores", "engine"],
        key=lambda column: column.map(
            {"network": names.index, "precision": precisions.index, "engine": order.index}.get(column.name, lambda x: x)
        ),
        kind="stable",
    )
    cases = ordered.groupby(["network", "precision", "batch_size", "cores", "engine"], sort=False)
    rows = [row_of_case(case, networks, accuracies) for _, case in cases]
    failed = sum(row[-1].style == "bad" for row in rows)
    units = " or ".join(dict.fromkeys(networks["unit"]))
    note = (
        f"Throughput in {units} per second. {len(rows)} cases, {failed} of them without a speed or with failed rounds. "
        "Noisy: in most rounds, the time for turns was spent before the median was known as well as was asked."
    )
    note = origin(benchmarks, networks, note)
    write_table(options.out, "All measurements", note, HEADER, rows, [name for name in HEADER if name not in TEXT])


def row_of_case(rows: pd.DataFrame, networks: pd.DataFrame, accuracies: pd.DataFrame) -> list[object]:
    """Return the cells of one case, from its rows of all rounds."""
    first = rows.iloc[0]
    ok = select(rows, status="ok")
    estimate = throughput(rows)
    latency = pd.to_numeric(ok["latency_ms_p50"]).median() if len(ok) else None
    correct = accuracy(networks, accuracies, first["network"], first["precision"], first["engine"])
    weights, macs = work_left(networks, first["network"])
    noisy = ok["noisy"].mean() > 0.5
    return [
        engine_title(first["engine"]),
        first["network"],
        precision_title(first["precision"]),
        first["batch_size"],
        first["cores"],
        ok["layout"].mode().iloc[0] if len(ok) else "–",
        with_interval(estimate),
        f"{latency:.3g}" if latency is not None else "–",
        in_percent(correct),
        kilo(weights),
        kilo(macs),
        f"{rounds_measured(rows)} of {rows['round'].nunique()}",
        Cell(why_missing(rows), "bad") if len(ok) < len(rows) else Cell("ok, noisy" if noisy else "ok", "quiet"),
    ]


if __name__ == "__main__":
    run_program(main)

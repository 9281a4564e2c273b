"""Figure 1: throughput of the dense network per engine, on one thread and on the whole processor."""

from pathlib import Path

import pandas as pd

from sparsemark.results.figures import Row, draw_rows, heading, keys, layout_note, new_figure, nothing, save, speed_bar
from sparsemark.results.measurements import (
    dense_network,
    engine_title,
    engines_and_precisions,
    load_benchmarks,
    load_networks,
    origin,
    precision_title,
    select,
)


def unquantised(benchmarks: pd.DataFrame, network: str) -> list[tuple[str, str]]:
    """Return (engine, precision) of every floating-point case of `network`, FP32 first within an engine."""
    cases = select(benchmarks, network=network)
    cases = cases[~cases["precision"].str.startswith("int")]
    return engines_and_precisions(cases)


def case_title(engine: str, precision: str) -> str:
    """Return the label of a row: FP32 goes without saying, every other precision is named."""
    return engine_title(engine) if precision == "fp32" else f"{engine_title(engine)} ({precision_title(precision)})"


def plot(benchmarks_path: Path, networks_path: Path, batch_size: int, out: Path) -> None:
    """Draw the throughput of the dense network at one batch size.

    Raises:
        InputError: a table is unreadable, or the study has no dense network.
    """
    networks = load_networks(networks_path)
    benchmarks = load_benchmarks(benchmarks_path)
    cases = select(benchmarks, network=dense_network(networks), batch_size=batch_size)
    rows = []
    for engine, precision in unquantised(cases, dense_network(networks)):
        case = select(cases, engine=engine, precision=precision)
        bars = []
        for cores in ("1", "all"):
            measured = select(case, cores=cores)
            if len(measured):
                bars.append(
                    speed_bar(measured, note=layout_note(measured) if cores == "all" else "", pale=cores == "1")
                )
        rows.append(Row(case_title(engine, precision), bars))
    figure, [axes] = new_figure(sum(len(row.bars) + 0.55 for row in rows))
    if rows:
        draw_rows(axes, rows, "Throughput in words/s")
    else:
        nothing(axes, f"This study measures no dense network at batch size {batch_size}.")
    heading(
        figure,
        f"Dense network, batch size {batch_size}",
        keys(pale="one thread", full="whole processor, best layout (instances × threads)"),
    )
    save(figure, out, origin(benchmarks, networks, "FP32 unless a precision is named."))

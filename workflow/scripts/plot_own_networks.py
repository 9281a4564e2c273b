"""Throughput of the networks that come from files, in every engine and precision, and what pruning them would gain."""

import pandas as pd

from sparsemark.files import run_program
from sparsemark.results.figures import Row, draw_rows, heading, keys, new_figure, nothing, save, speed_bar
from sparsemark.results.measurements import (
    data_title,
    engine_title,
    engines_and_precisions,
    input_parser,
    load_all_networks,
    load_benchmarks,
    origin,
    precision_title,
    select,
    times,
)
from sparsemark.results.ratios import ratio


def main_case(cases: pd.DataFrame) -> tuple[int, str]:
    """Return the batch size and cores that most was measured at; of several, the largest batch on all cores."""
    counts = cases.drop_duplicates(["engine", "network", "precision", "batch_size", "cores"])
    counts = counts.groupby(["batch_size", "cores"]).size()
    return max(counts.index, key=lambda key: (counts[key], key[0], key[1] == "all"))


def rows_of(cases: pd.DataFrame, file: str, names: list[str]) -> list[Row]:
    """Return a row per engine and precision: the file's network, and below it the same network with fewer weights."""
    rows = []
    for engine, precision in engines_and_precisions(cases):
        own = select(cases, engine=engine, precision=precision)
        base = select(own, network=file)
        bars = []
        for name in names:
            measured = select(own, network=name)
            if not len(measured):
                continue
            gain = ratio(measured, base) if name != file else None
            note = f"{name}{', ' + times(gain.value) if gain else ''}" if name != file else ""
            bars.append(speed_bar(measured, note=note, pale=name != file))
        rows.append(Row(f"{engine_title(engine)} {precision_title(precision)}", bars))
    return rows


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks").parse_args(arguments)
    networks = load_all_networks(options.networks)
    networks = networks[networks["kind"] != "trained"]
    benchmarks = load_benchmarks(options.benchmarks)
    benchmarks = benchmarks[benchmarks["network"].isin(networks["network"])]
    rows, notes = [], []
    for file, own in networks.groupby("dataset", sort=False):
        names = [file, *(name for name in own["network"] if name != file)]
        cases = benchmarks[benchmarks["network"].isin(names)]
        if not len(cases):
            continue
        batch_size, cores = main_case(cases)
        found = rows_of(select(cases, batch_size=batch_size, cores=cores), file, names)
        several = networks["dataset"].nunique() > 1
        rows += [Row(f"{file}, {row.label}" if several else row.label, row.bars) for row in found]
        place = "the whole processor" if cores == "all" else "one core"
        notes.append(f"{file}: batch size {batch_size}, {place}; samples: {data_title(select(own, network=file))}.")
    units = " or ".join(dict.fromkeys(networks["unit"]))
    figure, [axes] = new_figure(sum(len(row.bars) + 0.55 for row in rows))
    if rows:
        draw_rows(axes, rows, f"Throughput in {units}/s")
    else:
        nothing(axes, "This study measures no network from a file.")
    whats_if = (networks["kind"] == "what-if").any()
    legend = keys(full="as in the file", pale="what-if: pruned without training, speed only" if whats_if else "")
    heading(figure, "Networks from files", legend)
    save(figure, options.out, origin(benchmarks, note=" ".join(notes)))


if __name__ == "__main__":
    run_program(main)

"""Figure 2: how much faster the dense network runs at batch size 64 than at 1, per engine."""

from sparsemark.files import run_program
from sparsemark.results.dense_throughput import case_title, unquantised
from sparsemark.results.figures import Bar, Row, draw_rows, engine_colour, heading, keys, new_figure, nothing, save
from sparsemark.results.measurements import (
    dense_network,
    input_parser,
    load_benchmarks,
    load_networks,
    origin,
    select,
    why_missing,
)
from sparsemark.results.ratios import ratio, throughput

SMALL, LARGE = 1, 64


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks").parse_args(arguments)
    networks = load_networks(options.networks)
    benchmarks = load_benchmarks(options.benchmarks)
    cases = select(benchmarks, network=dense_network(networks))
    rows = []
    for engine, precision in unquantised(cases, dense_network(networks)):
        bars = []
        for cores in ("1", "all"):
            case = select(cases, engine=engine, precision=precision, cores=cores)
            large, small = select(case, batch_size=LARGE), select(case, batch_size=SMALL)
            if not len(large) and not len(small):
                continue
            gain = ratio(large, small)
            missing = large if throughput(large) is None else small
            size = LARGE if missing is large else SMALL
            note = "" if gain else f"batch {size} {why_missing(missing)}"
            bars.append(Bar(gain, engine_colour(engine), note, pale=cores == "1"))
        rows.append(Row(case_title(engine, precision), bars))
    figure, [axes] = new_figure(sum(len(row.bars) + 0.55 for row in rows))
    if any(row.bars for row in rows):
        draw_rows(axes, rows, f"Throughput at batch size {LARGE} / throughput at batch size {SMALL}", gains=True)
    else:
        nothing(axes, f"This study measures no dense network at both batch sizes, {SMALL} and {LARGE}.")
    heading(figure, f"What a batch of {LARGE} gains over single words", keys(pale="one thread", full="whole processor"))
    save(figure, options.out, origin(benchmarks, networks, "Dense network, FP32 unless a precision is named."))


if __name__ == "__main__":
    run_program(main)

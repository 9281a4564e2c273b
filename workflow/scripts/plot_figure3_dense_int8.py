"""Figure 3: dense INT8 throughput per engine, whole processor, batch size 64, against the published FPGA network."""

from sparsemark.files import run_program
from sparsemark.results.figures import Row, draw_rows, heading, keys, new_figure, published_row, save, speed_bar
from sparsemark.results.measurements import (
    dense_network,
    engine_title,
    engines_and_precisions,
    input_parser,
    load_benchmarks,
    load_networks,
    load_published,
    origin,
    precision_title,
    select,
    times,
)
from sparsemark.results.ratios import ratio

BATCH_SIZE = 64


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks", "published").parse_args(arguments)
    networks = load_networks(options.networks)
    benchmarks = load_benchmarks(options.benchmarks)
    published = select(load_published(options.published), network="dense")
    cases = select(benchmarks, network=dense_network(networks), batch_size=BATCH_SIZE, cores="all")
    int8 = cases[cases["precision"].str.startswith("int8")]
    rows = []
    for engine, precision in engines_and_precisions(int8):
        quantised = select(int8, engine=engine, precision=precision)
        gain = ratio(quantised, select(cases, engine=engine, precision="fp32"))
        note = f"{times(gain.value)} its FP32" if gain else ""
        variant = precision_title(precision).removeprefix("INT8").strip()
        label = engine_title(engine) + (f" ({variant})" if variant else "")
        rows.append(Row(label, [speed_bar(quantised, note=note)]))
    if not rows:
        rows.append(Row("", [speed_bar(int8)]))
    rows += [published_row(entry) for _, entry in published.iterrows()]
    figure, [axes] = new_figure(1.55 * len(rows))
    draw_rows(axes, rows, "Throughput in words/s")
    heading(
        figure,
        f"Dense INT8 network, whole processor, batch size {BATCH_SIZE}",
        keys(full="measured on this machine", published=True),
    )
    save(
        figure,
        options.out,
        origin(benchmarks, networks, f"FPGA: {'; '.join(dict.fromkeys(published['source']))}; not measured here."),
    )


if __name__ == "__main__":
    run_program(main)

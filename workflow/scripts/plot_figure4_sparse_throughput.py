"""Figure 4: best sparse throughput per engine, whole processor, batch size 64, beside the published FPGA results."""

from sparsemark.files import run_program
from sparsemark.results.accuracies import accuracy, in_percent
from sparsemark.results.figures import Row, draw_rows, heading, keys, new_figure, published_row, save, speed_bar
from sparsemark.results.measurements import (
    engine_title,
    input_parser,
    load_accuracies,
    load_benchmarks,
    load_networks,
    load_published,
    origin,
    precision_title,
)
from sparsemark.results.sparse_gains import best_sparse

BATCH_SIZE = 64


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks", "published", "accuracies").parse_args(arguments)
    networks = load_networks(options.networks)
    benchmarks = load_benchmarks(options.benchmarks)
    accuracies = load_accuracies(options.accuracies)
    published = load_published(options.published)
    published = published[(published["network"] != "dense") & (published["scope"] == "full chip")]
    rows = []
    for choice in best_sparse(benchmarks, networks, BATCH_SIZE, "all"):
        correct = accuracy(networks, accuracies, choice.network, choice.precision, choice.engine)
        note = f"{choice.network}, {precision_title(choice.precision)}"
        note += f", {in_percent(correct)} % accuracy" if correct else ""
        rows.append(Row(engine_title(choice.engine), [speed_bar(choice.rows, note=note)]))
    if not rows:
        rows.append(Row("", [speed_bar(benchmarks.iloc[:0])]))
    rows += [published_row(entry) for _, entry in published.iterrows()]
    figure, [axes] = new_figure(1.55 * len(rows))
    draw_rows(axes, rows, "Throughput in words/s")
    sources = "; ".join(dict.fromkeys(published["source"]))
    note = f"Behind each value: network, precision, accuracy. FPGA: {sources}; not measured here."
    heading(
        figure,
        f"Sparse networks at their fastest, whole processor, batch size {BATCH_SIZE}",
        keys(full="measured on this machine", published=True),
    )
    save(figure, options.out, origin(benchmarks, networks, note))


if __name__ == "__main__":
    run_program(main)

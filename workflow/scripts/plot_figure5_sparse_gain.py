"""Figure 5: gain of the best sparse network over the dense one, per engine and precision, and for the FPGA."""

import math

from sparsemark.files import run_program
from sparsemark.results.figures import (
    PUBLISHED_COLOUR,
    Bar,
    Row,
    draw_rows,
    engine_colour,
    heading,
    keys,
    new_figure,
    save,
)
from sparsemark.results.measurements import (
    engine_title,
    input_parser,
    load_benchmarks,
    load_networks,
    load_published,
    origin,
    precision_title,
    select,
    times,
    why_missing,
)
from sparsemark.results.ratios import Estimate
from sparsemark.results.sparse_gains import best_gains, mac_gain

BATCH_SIZE = 64


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks", "published").parse_args(arguments)
    networks = load_networks(options.networks)
    benchmarks = load_benchmarks(options.benchmarks)
    chip = select(load_published(options.published), scope="full chip").set_index("network")["throughput_words_per_s"]
    rows = []
    for choice in best_gains(benchmarks, networks, BATCH_SIZE, "all"):
        label = f"{engine_title(choice.engine)}, {precision_title(choice.precision)}"
        if choice.estimate:
            possible = mac_gain(networks, choice.network)
            note = f"of {times(possible)}, {choice.network}"
            bar = Bar(choice.estimate, engine_colour(choice.engine), note, possible=possible)
        else:
            # Without rows it is the dense network that this engine never ran at this precision.
            reason = why_missing(choice.rows) if len(choice.rows) else "no dense network at this precision"
            bar = Bar(None, engine_colour(choice.engine), reason)
        rows.append(Row(label, [bar]))
    if not rows:
        rows.append(Row("", [Bar(None, PUBLISHED_COLOUR, "no sparse network in this study")]))
    for network in ("sparse-dense", "sparse-sparse"):
        gain = chip[network] / chip["dense"]
        bar = Bar(Estimate(gain, math.nan, math.nan, 1), PUBLISHED_COLOUR, "published, full chip", published=True)
        rows.append(Row(f"FPGA {network}", [bar]))
    figure, [axes] = new_figure(1.55 * len(rows))
    draw_rows(axes, rows, "Throughput sparse / dense, same engine and precision", gains=True)
    heading(
        figure,
        f"What sparsity gains, whole processor, batch size {BATCH_SIZE}",
        keys(full="measured here", possible="what the remaining multiply-accumulates would allow", published=True),
    )
    note = "Behind each value: what the remaining MACs would allow, and the network with the largest gain."
    note += " FPGA: ratio of published throughputs."
    save(figure, options.out, origin(benchmarks, networks, note))


if __name__ == "__main__":
    run_program(main)

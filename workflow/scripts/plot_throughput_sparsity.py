"""Throughput against sparsity: what each engine makes of ever fewer weights, whole processor, batch size 64."""

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sparsemark.files import run_program
from sparsemark.results.figures import (
    QUIET,
    engine_colour,
    heading,
    new_figure,
    nothing,
    save,
    sparsity_axis,
    tick_label,
)
from sparsemark.results.measurements import (
    dense_network,
    engine_title,
    in_order,
    in_precision_order,
    input_parser,
    load_benchmarks,
    load_networks,
    load_specs,
    origin,
    precision_title,
    select,
    sparse_networks,
)
from sparsemark.results.ratios import throughput

BATCH_SIZE = 64
MARKERS = "os^Dv<>PX*hd"
FILLED = {"dense", "unstructured"}


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks", "config").parse_args(arguments)
    networks = load_networks(options.networks)
    specs = load_specs(options.config)
    cases = select(load_benchmarks(options.benchmarks), batch_size=BATCH_SIZE, cores="all")
    dense = dense_network(networks)
    cases = cases[cases["network"].isin([dense, *sparse_networks(networks)])]
    work = networks.groupby("network")["nonzero_macs"].mean()
    left = work / work[dense]
    precisions = in_precision_order(cases["precision"])
    engines = in_order(cases["engine"])
    figure, panels = new_figure(14 + len(engines) // 3, columns=max(1, len(precisions)))
    if not precisions:
        nothing(panels[0], f"This study measures nothing on the whole processor at batch size {BATCH_SIZE}.")
    absent = []
    for axes, precision in zip(panels, precisions, strict=False):
        for number, engine in enumerate(engines):
            measured = []
            for network, rows in select(cases, engine=engine, precision=precision).groupby("network"):
                estimate = throughput(rows)
                if estimate:
                    measured.append((left[network], estimate, specs.get(network, {})))
                else:
                    absent.append(f"{engine_title(engine)} {precision_title(precision)} {network}")
            colour, marker = engine_colour(engine), MARKERS[number % len(MARKERS)]
            # Only networks of one pattern are points of one curve; the others stand beside it, hollow.
            curve = sorted((point for point in measured if specs_on_curve(point[2])), key=lambda point: -point[0])
            axes.plot([x for x, _, _ in curve], [y.value for _, y, _ in curve], color=colour, linewidth=1.4)
            for x, estimate, spec in measured:
                if estimate.has_interval:
                    axes.plot([x, x], [estimate.low, estimate.high], color=colour, linewidth=1.2)
                axes.plot(
                    x,
                    estimate.value,
                    marker=marker,
                    markersize=6,
                    color=colour,
                    markerfacecolor=colour if specs_on_curve(spec) else "white",
                    linewidth=0,
                )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        sparsity_axis(axes, left.min(), "MACs saved")
        axes.set_title(precision_title(precision), fontsize="medium", loc="right")
    panels[0].set_ylabel("Throughput in words/s, logarithmic scale")
    handles = [
        Line2D([], [], color=engine_colour(engine), marker=MARKERS[number % len(MARKERS)], label=engine_title(engine))
        for number, engine in enumerate(engines)
    ]
    handles.append(
        Line2D(
            [],
            [],
            color=QUIET,
            marker="o",
            markerfacecolor="white",
            linewidth=0,
            label="patterned or sparse in activations",
        )
    )
    note = "Lines: dense and unstructured pruned networks."
    if absent:
        note += f" Without a speed: {len(absent)} cases ({', '.join(absent[:3])}{', …' if len(absent) > 3 else ''})."
    heading(figure, "What fewer weights gain in throughput", handles, 3)
    save(figure, options.out, origin(cases, networks, note))


def specs_on_curve(spec: dict) -> bool:
    """Tell whether a network belongs to the curve of unstructured pruning, its start included."""
    if not spec.get("sparsity"):
        return "column_gate" not in spec and "k_winners" not in spec
    plain = spec.get("pattern", "unstructured") == "unstructured" and "start" in spec
    return plain and "column_gate" not in spec and "k_winners" not in spec


if __name__ == "__main__":
    run_program(main)

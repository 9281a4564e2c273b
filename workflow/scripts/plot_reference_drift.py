"""The reference over the study: how the machine drifted, and what of it is left in ratios of equal things."""

from matplotlib.ticker import FuncFormatter

from sparsemark.files import run_program
from sparsemark.results.figures import INK, heading, new_figure, nothing, save
from sparsemark.results.measurements import (
    input_parser,
    load_benchmarks,
    load_rounds,
    origin,
    share_title,
    with_interval,
)
from sparsemark.results.quality import drift
from sparsemark.results.ratios import SHARE, self_ratios

#: Colours that stay apart for colour-blind readers (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
MARKERS = "os^Dv<>"


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks").parse_args(arguments)
    rounds = load_rounds(options.benchmarks)
    points = drift(rounds)
    figure, [axes] = new_figure(10)
    handles = []
    for number, ((batch_size, cores), own) in enumerate(points.groupby(SHARE)):
        [line] = axes.plot(
            own["minutes"],
            100 * own["speed"],
            marker=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            markersize=4,
            linewidth=0,
            label=share_title(batch_size, cores),
        )
        handles.append(line)
    if handles:
        axes.axhline(100, color=INK, linewidth=0.9, linestyle="--")
        axes.set_xlabel("Minutes since the first measurement")
        axes.set_ylabel("Speed of the reference")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    else:
        nothing(axes, "The reference has no speed in this study.")
    heading(figure, "The reference over the study, 100 % is its median", handles, 3)
    ratios = "; ".join(
        f"{share_title(*share)} {with_interval(mean.estimate(), '{:.3f}'.format)}"
        for share, mean in self_ratios(rounds).items()
    )
    note = f"Measured against itself: {ratios}." if ratios else ""
    save(figure, options.out, origin(load_benchmarks(options.benchmarks), note=note))


if __name__ == "__main__":
    run_program(main)

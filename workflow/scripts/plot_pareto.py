"""Accuracy against throughput of everything measured, whole processor, batch size 64, and the cases none beats."""

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sparsemark.files import run_program
from sparsemark.results.accuracies import accuracy
from sparsemark.results.figures import FONT, INK, QUIET, engine_colour, heading, new_figure, nothing, save, tick_label
from sparsemark.results.measurements import (
    engine_title,
    in_order,
    input_parser,
    load_accuracies,
    load_benchmarks,
    load_networks,
    origin,
    precision_title,
    select,
)
from sparsemark.results.ratios import throughput

BATCH_SIZE = 64
MARKERS = {"fp32": "o", "bf16": "D", "int8": "s"}
OTHER_MARKER = "^"


def front(points: list[dict]) -> list[dict]:
    """Return the points that no other point beats in both speed and accuracy, fastest first."""
    best, kept = -1.0, []
    for point in sorted(points, key=lambda point: (-point["speed"], -point["accuracy"])):
        if point["accuracy"] > best:
            kept.append(point)
            best = point["accuracy"]
    return kept


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks", "accuracies").parse_args(arguments)
    networks = load_networks(options.networks)
    accuracies = load_accuracies(options.accuracies)
    cases = select(load_benchmarks(options.benchmarks), batch_size=BATCH_SIZE, cores="all")
    # Of a network from a file, the accuracy is that of another task.
    cases = cases[cases["network"].isin(networks["network"])]
    points, left_out = [], 0
    for (engine, network, precision), rows in cases.groupby(["engine", "network", "precision"], sort=False):
        speed = throughput(rows)
        correct = accuracy(networks, accuracies, network, precision, engine)
        if speed is None or correct is None:
            left_out += 1
            continue
        points.append(
            {
                "engine": engine,
                "network": network,
                "precision": precision,
                "speed": speed.value,
                "accuracy": correct.value,
            }
        )
    figure, [axes] = new_figure(17)
    if not points:
        nothing(axes, f"No case has both a speed on the whole processor at batch size {BATCH_SIZE} and an accuracy.")
    for point in points:
        axes.plot(
            point["speed"],
            100 * point["accuracy"],
            marker=MARKERS.get(point["precision"], OTHER_MARKER),
            color=engine_colour(point["engine"]),
            markeredgecolor="white",
            markeredgewidth=0.6,
            markersize=7,
            linewidth=0,
            zorder=3,
        )
    best = front(points)
    axes.step(
        [point["speed"] for point in best],
        [100 * point["accuracy"] for point in best],
        where="pre",
        color=INK,
        linewidth=1,
        zorder=2,
    )
    for number, point in enumerate(best, start=1):
        axes.annotate(
            str(number),
            (point["speed"], 100 * point["accuracy"]),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=FONT,
            fontweight="bold",
            color=INK,
            zorder=4,
        )
    if points:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("Throughput in words/s, logarithmic scale")
        axes.set_ylabel("Accuracy on the test set in %")
    precisions = sorted({point["precision"] for point in points}, key=lambda name: [*MARKERS, name].index(name))
    handles = [
        Line2D([], [], marker="o", color=engine_colour(engine), linewidth=0, label=engine_title(engine))
        for engine in in_order(point["engine"] for point in points)
    ]
    handles += [
        Line2D([], [], marker=MARKERS.get(name, OTHER_MARKER), color=QUIET, linewidth=0, label=precision_title(name))
        for name in precisions
    ]
    heading(figure, "Accuracy against throughput, everything measured", handles, 5)
    names = "; ".join(
        f"{number} {point['network']}, {engine_title(point['engine'])} {precision_title(point['precision'])}"
        for number, point in enumerate(best, start=1)
    )
    note = f"Whole processor, batch size {BATCH_SIZE}. Line: no other case is both faster and more accurate ({names})."
    if left_out:
        note += f" {left_out} cases have no speed or no accuracy; the table of measurements says why."
    save(figure, options.out, origin(cases, networks, note))


if __name__ == "__main__":
    run_program(main)

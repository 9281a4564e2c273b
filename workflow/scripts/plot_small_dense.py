"""The control: accuracy against throughput of sparse networks and of smaller dense ones, each in its fastest engine."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sparsemark.files import run_program
from sparsemark.results.accuracies import accuracy
from sparsemark.results.figures import FONT, INK, QUIET, heading, new_figure, nothing, save, tick_label
from sparsemark.results.measurements import (
    dense_network,
    engine_title,
    in_precision_order,
    input_parser,
    load_accuracies,
    load_benchmarks,
    load_networks,
    origin,
    precision_title,
    select,
    small_dense_networks,
    sparse_networks,
)
from sparsemark.results.ratios import Estimate, fastest, throughput

BATCH_SIZE = 64
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Kind:
    """Networks that are drawn alike: their names, and how."""

    title: str
    networks: list[str]
    colour: str
    marker: str


@dataclass(frozen=True)
class Point:
    """A network in its fastest engine."""

    network: str
    engine: str
    speed: Estimate
    accuracy: float


def kinds_of(networks: pd.DataFrame) -> list[Kind]:
    """Return the dense network, the smaller dense ones and the sparse ones."""
    return [
        Kind("the dense network", [dense_network(networks)], INK, "s"),
        Kind("smaller dense networks", small_dense_networks(networks), "#0072B2", "o"),
        Kind("sparse networks", sparse_networks(networks), "#D55E00", "^"),
    ]


def points_of(
    kind: Kind, cases: pd.DataFrame, networks: pd.DataFrame, accuracies: pd.DataFrame, precision: str
) -> list[Point]:
    """Return the networks of a kind that have a speed and an accuracy at a precision."""
    points = []
    for network in kind.networks:
        rows = fastest(select(cases, network=network, precision=precision), "engine")
        speed = throughput(rows)
        if speed is None:
            continue
        engine = rows["engine"].iloc[0]
        correct = accuracy(networks, accuracies, network, precision, engine)
        if correct is not None:
            points.append(Point(network, engine, speed, correct.value))
    return points


def draw(axes: Axes, kind: Kind, points: list[Point]) -> None:
    """Draw the points with their names, and the line of those that no other of their kind beats in both."""
    for point in points:
        if point.speed.has_interval:
            axes.plot([point.speed.low, point.speed.high], [100 * point.accuracy] * 2, color=kind.colour, linewidth=1.2)
        axes.plot(point.speed.value, 100 * point.accuracy, kind.marker, color=kind.colour, markersize=7, zorder=3)
        axes.annotate(
            f"{point.network}, {engine_title(point.engine)}",
            (point.speed.value, 100 * point.accuracy),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=FONT - 2.5,
            color=QUIET,
        )
    best, line = -1.0, []
    for point in sorted(points, key=lambda point: -point.speed.value):
        if point.accuracy > best:
            best = point.accuracy
            line.append(point)
    axes.step(
        [point.speed.value for point in line],
        [100 * point.accuracy for point in line],
        where="pre",
        color=kind.colour,
        linewidth=1,
        alpha=0.6,
    )


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks", "accuracies").parse_args(arguments)
    networks, accuracies = load_networks(options.networks), load_accuracies(options.accuracies)
    cases = select(load_benchmarks(options.benchmarks), batch_size=BATCH_SIZE, cores="all")
    kinds = kinds_of(networks)
    drawn = {}
    for precision in in_precision_order(cases["precision"]):
        points = [points_of(kind, cases, networks, accuracies, precision) for kind in kinds]
        if precision in PRECISIONS and any(points):
            drawn[precision] = points
    figure, panels = new_figure(18, columns=max(1, len(drawn)))
    for axes, (precision, points) in zip(panels, drawn.items(), strict=False):
        for kind, own in zip(kinds, points, strict=True):
            draw(axes, kind, own)
        axes.set_xscale("log")
        axes.margins(x=0.2, y=0.12)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("Throughput in words/s, logarithmic scale")
        axes.set_title(precision_title(precision), fontsize="medium", loc="right")
    if drawn:
        panels[0].set_ylabel("Accuracy on the test set in %")
    else:
        nothing(panels[0], f"No network has a speed on the whole processor at batch size {BATCH_SIZE} and an accuracy.")
    handles = [Line2D([], [], marker=kind.marker, color=kind.colour, label=kind.title) for kind in kinds]
    heading(figure, "Sparse networks against smaller dense ones", handles, 3)
    note = f"Whole processor, batch size {BATCH_SIZE}; each network in its fastest engine, with that engine's accuracy."
    if not kinds[1].networks:
        note += " This study has no smaller dense network."
    save(figure, options.out, origin(cases, networks, note))


if __name__ == "__main__":
    run_program(main)

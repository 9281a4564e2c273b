"""Throughput of the dense network against the batch size, per engine, with the sizes that beat a neighbour by far."""

from itertools import pairwise

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from sparsemark.files import run_program
from sparsemark.results.figures import FONT, INK, engine_colour, heading, new_figure, nothing, save, tick_label
from sparsemark.results.measurements import (
    dense_network,
    engine_title,
    in_order,
    input_parser,
    load_benchmarks,
    load_networks,
    origin,
    select,
)
from sparsemark.results.ratios import ratio, throughput

MARKERS = "os^Dv<>PX*hd"
#: Below this size a batch gains by every word that it has more; no size there is better than it should be.
SMALL = 16
#: A size is marked if it is so many times as fast as one of its neighbours.
MAGIC = 1.2
PANELS = {"1": "one core", "all": "whole processor"}


def magic_sizes(cases: pd.DataFrame) -> list[int]:
    """Return the batch sizes, of one engine's cases, that beat a neighbouring size by MAGIC and no smaller a doubt."""
    by_size = {size: rows for size, rows in cases.groupby("batch_size") if size >= SMALL and throughput(rows)}
    sizes = sorted(by_size)
    found = set()
    for first, second in pairwise(sizes):
        for better, worse in ((first, second), (second, first)):
            gain = ratio(by_size[better], by_size[worse])
            if gain and gain.is_told_from_one and gain.value >= MAGIC:
                found.add(better)
    return sorted(found)


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks").parse_args(arguments)
    networks = load_networks(options.networks)
    benchmarks = load_benchmarks(options.benchmarks)
    cases = select(benchmarks, network=dense_network(networks), precision="fp32")
    engines = in_order(cases["engine"])
    shares = [cores for cores in PANELS if (select(cases, cores=cores)["status"] == "ok").any()]
    figure, panels = new_figure(12 + len(engines) // 3, columns=max(1, len(shares)))
    if not shares:
        nothing(panels[0], "No dense network in FP32 has a speed in this study.")
    for axes, cores in zip(panels, shares, strict=False):
        for number, engine in enumerate(engines):
            own = select(cases, engine=engine, cores=cores)
            measured = [
                (size, speed) for size, rows in own.groupby("batch_size") if (speed := throughput(rows)) is not None
            ]
            colour = engine_colour(engine)
            sizes, speeds = [size for size, _ in measured], [speed.value for _, speed in measured]
            axes.plot(sizes, speeds, color=colour, marker=MARKERS[number % len(MARKERS)], linewidth=1.4, markersize=5)
            for size, speed in measured:
                if speed.has_interval:
                    axes.plot([size, size], [speed.low, speed.high], color=colour, linewidth=1.2)
            for size in magic_sizes(own):
                place = (size, dict(measured)[size].value)
                axes.plot(*place, marker="o", markersize=13, markerfacecolor="none", markeredgecolor=INK)
                axes.annotate(str(size), place, xytext=(0, 9), textcoords="offset points", ha="center", fontsize=FONT)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(cases["batch_size"]))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.0f}"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("Batch size in words")
        axes.set_title(PANELS[cores], fontsize="medium", loc="right")
    if shares:
        panels[0].set_ylabel("Throughput in words/s, logarithmic scale")
    handles = [
        Line2D([], [], color=engine_colour(engine), marker=MARKERS[number % len(MARKERS)], label=engine_title(engine))
        for number, engine in enumerate(engines)
    ]
    heading(figure, "Dense network in FP32 against the batch size", handles, 4)
    note = f"Circles: from {SMALL} words on, sizes at least {MAGIC - 1:.0%} faster than a neighbouring one."
    save(figure, options.out, origin(benchmarks, networks, note.replace("%", " %")))


if __name__ == "__main__":
    run_program(main)

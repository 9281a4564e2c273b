"""Where the time goes: microseconds per word and kind of operator, before and after quantisation, by engine."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from sparsemark.files import run_program
from sparsemark.results.figures import FONT, INK, heading, new_figure, nothing, save
from sparsemark.results.measurements import (
    engine_title,
    engines_and_precisions,
    input_parser,
    kilo,
    load_benchmarks,
    load_profiles,
    one_core_origin,
    precision_title,
)


def draw_stacks(axes: Axes, profile: pd.DataFrame, bars: list[tuple[str, str]]) -> list[Patch]:
    """Draw a stack of the kinds' times for each (engine, precision) of `bars`; return what explains the colours."""
    times = profile.assign(us_per_word=profile["microseconds"] / profile["batch_size"]).pivot_table(
        index=["engine", "precision"], columns="kind", values="us_per_word", aggfunc="sum", fill_value=0.0
    )
    # The kinds with most time first, and in the same order in every bar.
    kinds = list(times.sum().sort_values(ascending=False).index)
    colours = dict(zip(kinds, sns.color_palette("colorblind", len(kinds)), strict=True))
    for position, bar in enumerate(bars):
        left = 0.0
        for kind in kinds:
            value = float(times.loc[bar, kind])
            axes.barh(position, value, 0.7, left=left, color=colours[kind], edgecolor="white", linewidth=0.5, zorder=2)
            left += value
        axes.text(left, position, f" {kilo(left)}", va="center", fontweight="bold", fontsize=FONT, color=INK)
    axes.set_yticks(
        range(len(bars)), [f"{engine_title(engine)}, {precision_title(precision)}" for engine, precision in bars]
    )
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * times.sum(axis=1).max())
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("Time per word in microseconds", loc="left")
    return [Patch(color=colour, label=kind) for kind, colour in colours.items()]


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "profile").parse_args(arguments)
    profile = load_profiles(options.profile)
    bars = engines_and_precisions(profile)
    figure, [axes] = new_figure(max(4, 1.45 * len(bars)))
    keys: list[Patch] = []
    if bars:
        keys = draw_stacks(axes, profile, bars)
    else:
        nothing(axes, "This study has no engine whose profiler gave the times of its operators.")
    heading(figure, "Where the time goes", keys, 4)
    note = "As the engines' own profilers tell, which slow them down a little."
    save(figure, options.out, one_core_origin(profile, load_benchmarks(options.benchmarks), note))


if __name__ == "__main__":
    run_program(main)

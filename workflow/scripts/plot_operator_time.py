"""Where the time goes: microseconds per word and kind of operator, before and after quantisation, by engine."""

import seaborn as sns
from matplotlib.patches import Patch

from figures import FONT, INK, heading, new_figure, save
from files import run_program
from measurements import (
    engine_title,
    in_order,
    in_precision_order,
    input_parser,
    load_benchmarks,
    load_profiles,
    precision_title,
    select,
)


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "profile").parse_args(arguments)
    profile = load_profiles(options.profile)
    profile["us_per_word"] = profile["microseconds"] / profile["batch_size"]
    times = profile.pivot_table(
        index=["engine", "precision"], columns="kind", values="us_per_word", aggfunc="sum", fill_value=0.0
    )
    # The kinds with most time first, and in the same order in every bar.
    kinds = list(times.sum().sort_values(ascending=False).index)
    colours = dict(zip(kinds, sns.color_palette("colorblind", len(kinds)), strict=True))
    bars = [
        (engine, precision)
        for engine in in_order(profile["engine"])
        for precision in in_precision_order(select(profile, engine=engine)["precision"])
    ]
    figure, [axes] = new_figure(1.45 * len(bars))
    for position, bar in enumerate(bars):
        left = 0.0
        for kind in kinds:
            value = float(times.loc[bar, kind])
            axes.barh(position, value, 0.7, left=left, color=colours[kind], edgecolor="white", linewidth=0.5, zorder=2)
            left += value
        axes.text(left, position, f" {left:.3g}", va="center", fontweight="bold", fontsize=FONT, color=INK)
    axes.set_yticks(
        range(len(bars)), [f"{engine_title(engine)}, {precision_title(precision)}" for engine, precision in bars]
    )
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * times.sum(axis=1).max())
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("Time per word in microseconds", loc="left")
    heading(figure, "Where the time goes", [Patch(color=colour, label=kind) for kind, colour in colours.items()], 4)
    cases = profile[["network", "batch_size"]].drop_duplicates().itertuples(index=False)
    note = "; ".join(f"Network {network}, batch size {size}, one core" for network, size in cases)
    note += ". As the engines' own profilers tell, which slow them down a little."
    machines = ", ".join(dict.fromkeys(load_benchmarks(options.benchmarks)["machine"]))
    save(figure, options.out, f"{note} Machine: {machines}.")


if __name__ == "__main__":
    run_program(main)

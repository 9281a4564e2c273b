"""Where the time goes: microseconds per word and operator type, before and after quantisation, by engine."""

import textwrap

import seaborn as sns
from matplotlib.patches import Patch

from figures import FONT, INK, QUIET, heading, new_figure, nothing, save
from files import run_program
from measurements import (
    engine_title,
    in_order,
    in_precision_order,
    load_profile,
    page_parser,
    precision_title,
    select,
    why_missing,
)

#: Operator types that take less than this share of the longest bar are drawn together.
SMALL = 0.02


def main(arguments: list[str] | None = None) -> None:
    options = page_parser(__doc__, profile="profile_operators.csv").parse_args(arguments)
    profile = load_profile(options.profile)
    ok = select(profile, status="ok")
    times = ok.groupby(["engine", "precision", "operator"])["us_per_word"].sum()
    bars = [
        (engine, precision)
        for engine in in_order(profile["engine"])
        for precision in in_precision_order(select(profile, engine=engine)["precision"])
    ]
    figure, [axes] = new_figure(1.45 * len(bars))
    if not bars:
        nothing(axes, "This study profiles no engine.")
        heading(figure, "Where the time goes")
        save(figure, options.out, "No machine.")
        return
    longest = times.groupby(["engine", "precision"]).sum().max() if len(times) else 1.0
    total = times.groupby("operator").max().sort_values(ascending=False)
    named = [name for name, value in total.items() if value >= SMALL * longest]
    colours = dict(zip([*named, "others"], [*sns.color_palette("colorblind", len(named)), QUIET], strict=True))
    for position, (engine, precision) in enumerate(bars):
        if (engine, precision) not in times.index.droplevel("operator"):
            rows = select(profile, engine=engine, precision=precision)
            reason = textwrap.shorten(why_missing(rows), 74, placeholder=" …")
            axes.text(0, position, f" ✕ {reason}", va="center", style="italic", color=QUIET)
            continue
        own = times[engine, precision]
        shares = {name: float(own.get(name, 0.0)) for name in named}
        shares["others"] = float(own.sum()) - sum(shares.values())
        left = 0.0
        for name, value in shares.items():
            axes.barh(position, value, 0.7, left=left, color=colours[name], edgecolor="white", linewidth=0.5, zorder=2)
            left += value
        axes.text(left, position, f" {left:.3g}", va="center", fontweight="bold", fontsize=FONT, color=INK)
    axes.set_yticks(
        range(len(bars)), [f"{engine_title(engine)}, {precision_title(precision)}" for engine, precision in bars]
    )
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * longest)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("Time per word in microseconds, by operator type", loc="left")
    heading(figure, "Where the time goes", [Patch(color=colour, label=name) for name, colour in colours.items()], 4)
    cases = profile[["network", "batch_size"]].drop_duplicates().itertuples(index=False)
    note = "; ".join(f"Network {network}, batch size {size}, one thread" for network, size in cases)
    note += ". As the engines' own profilers tell, which slow them down a little."
    save(figure, options.out, f"{note} Machine: {', '.join(dict.fromkeys(profile['machine']))}.")


if __name__ == "__main__":
    run_program(main)

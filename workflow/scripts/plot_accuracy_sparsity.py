"""Accuracy against sparsity: what removing weights costs, per kind of network, over all seeds."""

import seaborn as sns
from matplotlib.ticker import FuncFormatter

from sparsemark.files import run_program
from sparsemark.results.figures import QUIET, heading, new_figure, save, sparsity_axis
from sparsemark.results.measurements import (
    data_title,
    dense_network,
    input_parser,
    load_networks,
    load_specs,
    network_kind,
    select,
)


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "networks", "config").parse_args(arguments)
    networks = load_networks(options.networks).dropna(subset="accuracy")
    specs = load_specs(options.config)
    dense = select(networks, network=dense_network(networks))
    # Smaller dense networks have fewer weights, none of which is zero: plot_small_dense shows them.
    networks = networks[networks["parameters"] == dense["parameters"].iloc[0]]
    points = networks.assign(kind=[network_kind(specs.get(name, {})) for name in networks["network"]])
    kinds = list(dict.fromkeys(points["kind"]))
    figure, panels = new_figure(11 + len(kinds) // 2, columns=2)
    for axes, column, label in (
        (panels[0], "nonzero_weights", "Weights that are zero"),
        (panels[1], "nonzero_macs", "Multiply-accumulates saved by them"),
    ):
        axes.axhline(100 * dense["accuracy"].mean(), color=QUIET, linewidth=1, linestyle="--", zorder=1)
        # The seeds of a network differ by a few weights; their mean makes them one point with a spread.
        left = points.groupby("network")[column].transform("mean") / dense[column].mean()
        sns.lineplot(
            x=left,
            y=100 * points["accuracy"],
            hue=points["kind"],
            style=points["kind"],
            hue_order=kinds,
            style_order=kinds,
            palette="colorblind",
            markers=True,
            dashes=False,
            errorbar=lambda values: (values.min(), values.max()),
            err_style="bars",
            err_kws={"capsize": 3},
            markersize=7,
            ax=axes,
        )
        sparsity_axis(axes, left.min(), label)
        axes.set_ylabel("Accuracy on the test set in %" if axes is panels[0] else "")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    handles, _ = panels[0].get_legend_handles_labels()
    for axes in panels:
        axes.get_legend().remove()
    seeds = networks["seed"].nunique()
    spread = f"mean and range over {seeds} seeds" if seeds > 1 else "one seed, so no spread is known"
    heading(figure, "What sparsity costs in accuracy", handles, 2)
    save(figure, options.out, f"FP32 networks, {spread}; dashed: the dense network. Data: {data_title(networks)}.")


if __name__ == "__main__":
    run_program(main)

"""Table of accuracies: each network in FP32, its distance from the dense one, and every engine's INT8 form of it."""

from sparsemark.files import run_program
from sparsemark.results.accuracies import accuracies_of_seeds, clips_of, difference, difference_cell, over_seeds
from sparsemark.results.html_table import Cell, write_table
from sparsemark.results.measurements import (
    base_network,
    data_title,
    engine_title,
    in_order,
    input_parser,
    load_accuracies,
    load_all_networks,
    select,
)


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "networks", "accuracies").parse_args(arguments)
    networks, accuracies = load_all_networks(options.networks), load_accuracies(options.accuracies)
    engines = in_order(select(accuracies, precision="int8")["engine"])
    fixed = ["Network", "Seeds", "FP32, %", "Points from dense"]
    header = fixed + [f"{engine_title(engine)} INT8, %" for engine in engines]
    rows = []
    for network in dict.fromkeys(networks["network"]):
        trained = select(networks, network=network).set_index("seed")["accuracy"]
        base = base_network(networks, network)
        full = select(networks, network=base).set_index("seed")["accuracy"]
        # Networks of a seed share their order of clips, and a pruned one began as the dense one of its seed.
        clips = clips_of(networks, network)
        distance = difference(trained.dropna(), full.dropna(), clips) if network != base else None
        row = [
            network,
            len(trained),
            over_seeds(trained.dropna(), clips) if trained.notna().any() else Cell("–", "quiet"),
            difference_cell(distance),
        ]
        for engine in engines:
            found = accuracies_of_seeds(networks, accuracies, network, "int8", engine)
            row.append(over_seeds(found, clips) if len(found) else Cell("–", "quiet"))
        rows.append(row)
    note = (
        f"Accuracy on the test set of {data_title(networks)}: mean with its 95 % interval for that many clips "
        "(Wilson), and range over seeds where there are several. A distance from the dense network is told where its "
        "interval (Newcombe) leaves out 0. INT8 is what each engine's own tool made of it, run by that engine; a dash "
        "stands where the study has none, or where it failed."
    )
    write_table(options.out, "Accuracies", note, header, rows, header[1:])


if __name__ == "__main__":
    run_program(main)

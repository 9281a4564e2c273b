"""How the speed of dualsparse on one core comes about: INT8, weight sparsity, activation sparsity, step by step."""

import pandas as pd

from sparsemark.files import run_program
from sparsemark.results.accuracies import accuracy, in_percent
from sparsemark.results.figures import Bar, Row, draw_rows, heading, new_figure, nothing, save, speed_bar
from sparsemark.results.measurements import (
    dense_network,
    engine_title,
    input_parser,
    load_accuracies,
    load_benchmarks,
    load_networks,
    load_specs,
    origin,
    select,
    times,
)
from sparsemark.results.ratios import Estimate, fastest, ratio

ENGINE = "dualsparse"
REFERENCE = "onnxruntime"
BATCH_SIZES = (1, 64)


def steps(cases: pd.DataFrame, dense: str, specs: dict[str, dict]) -> list[tuple[str, pd.DataFrame]]:
    """Return the way from a dense FP32 network to both sparsities as (label, rows of its case)."""
    own = select(cases, engine=ENGINE)
    int8 = select(own, precision="int8")
    gated = [name for name, spec in specs.items() if "column_gate" in spec or "k_winners" in spec]
    sparse = [name for name, spec in specs.items() if spec.get("sparsity") and name not in gated]
    both = [name for name in gated if specs[name].get("sparsity")]
    others = cases[(cases["engine"] != ENGINE) & (cases["network"] == dense) & (cases["precision"] == "int8")]
    rival = fastest(others, "engine")
    reference = select(cases, engine=REFERENCE, network=dense, precision="fp32")
    fastest_other = f"{engine_title(rival['engine'].iloc[0])} INT8" if len(rival) else "another engine, INT8"
    return [
        (f"{engine_title(REFERENCE)} FP32", reference),
        (fastest_other, rival),
        (f"{engine_title(ENGINE)} FP32", select(own, network=dense, precision="fp32")),
        ("+ INT8", select(int8, network=dense)),
        ("+ sparse weights", fastest(int8[int8["network"].isin(sparse)], "network")),
        ("+ sparse activations", fastest(int8[int8["network"].isin(both)], "network")),
    ]


def bar_of_step(chain: list[tuple[str, pd.DataFrame]], number: int, correct: Estimate | None) -> Bar:
    """Return the bar of one step, its note telling its accuracy, its own gain and the gain over the reference."""
    rows, reference = chain[number][1], chain[0][1]
    notes = []
    if number >= 4 and len(rows):
        notes.append(str(rows["network"].iloc[0]))
    if correct:
        notes.append(f"{in_percent(correct)} %")
    own = ratio(rows, chain[number - 1][1]) if number >= 3 else None
    if own:
        notes.append(f"step {times(own.value)}")
    total = ratio(rows, reference) if number else None
    if total:
        notes.append(f"in all {times(total.value)}")
    return speed_bar(rows, note=", ".join(notes), pale=number < 2)


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks", "config", "accuracies").parse_args(arguments)
    networks = load_networks(options.networks)
    specs = load_specs(options.config)
    accuracies = load_accuracies(options.accuracies)
    cases = select(load_benchmarks(options.benchmarks), cores="1")
    dense = dense_network(networks)
    rows = []
    for batch_size in BATCH_SIZES:
        chain = steps(select(cases, batch_size=batch_size), dense, specs)
        if any(len(step[1]) for step in chain[2:]):
            rows.append(Row(f"Batch size {batch_size}"))
            for number, (label, case) in enumerate(chain):
                named = case[["network", "precision", "engine"]].iloc[0] if len(case) else None
                correct = None if named is None else accuracy(networks, accuracies, *named)
                rows.append(Row(label, [bar_of_step(chain, number, correct)]))
    figure, [axes] = new_figure(1.45 * len(rows))
    if rows:
        draw_rows(axes, rows, "Throughput of one core in words/s", log=True)
        for label in axes.get_yticklabels():
            if label.get_text().startswith("Batch size"):
                label.set_fontweight("bold")
    else:
        nothing(axes, f"This study does not measure {engine_title(ENGINE)}.")
    heading(figure, "The speed of dualsparse, step by step")
    note = "Behind each value: accuracy on the test set, the ratio to the bar above (step; below 1 it is slower), and "
    note += f"that to {engine_title(REFERENCE)} FP32 dense (in all)."
    save(figure, options.out, origin(cases, networks, note))


if __name__ == "__main__":
    run_program(main)

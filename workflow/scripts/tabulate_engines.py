"""Table of what really ran: version, precision, instruction set, threads and own operators, as each engine tells."""

import pandas as pd

from sparsemark.files import run_program
from sparsemark.results.html_table import Cell, write_table
from sparsemark.results.measurements import (
    engine_title,
    engines_and_precisions,
    input_parser,
    load_benchmarks,
    origin,
    precision_title,
    select,
    why_missing,
)

HEADER = [
    "Engine",
    "Version",
    "Precision asked for",
    "Precision that ran",
    "Instruction set or kernels",
    "Threads per instance",
    "Layouts",
    "Own operators",
    "Cases with a speed",
    "First reason of those without",
]


def told(rows: pd.DataFrame, column: str) -> list[str]:
    """Return the distinct values that engines told in `column`, in order of appearance."""
    return [value for value in dict.fromkeys(rows[column]) if value]


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks").parse_args(arguments)
    benchmarks = load_benchmarks(options.benchmarks, executed=True)
    rows = [
        row_of_engine(select(benchmarks, engine=engine, precision=precision))
        for engine, precision in engines_and_precisions(benchmarks)
    ]
    note = "Read back from each engine after loading, never copied from the request; – where it is silent."
    write_table(
        options.out,
        "What really ran",
        origin(benchmarks, note=note),
        HEADER,
        rows,
        ["Own operators", "Cases with a speed"],
    )


def row_of_engine(rows: pd.DataFrame) -> list[object]:
    """Return the cells of one engine at one precision, from its rows of all cases and rounds."""
    ok = select(rows, status="ok")
    failed = rows[rows["status"] != "ok"]
    cases = ["network", "batch_size", "cores"]
    shares = sorted(float(share) for share in told(ok, "own_operator_share"))
    own = ""
    if shares:
        low, high = f"{100 * shares[0]:.0f} %", f"{100 * shares[-1]:.0f} %"
        own = low if low == high else f"{low} to {high}"
    return [
        engine_title(rows["engine"].iloc[0]),
        ", ".join(told(rows, "engine_version")) or "–",
        precision_title(rows["precision"].iloc[0]),
        ", ".join(map(precision_title, told(ok, "executed_precision"))) or "–",
        ", ".join(told(ok, "instruction_set")) or "–",
        ", ".join(sorted(told(ok, "executed_threads"), key=float)) or "–",
        ", ".join(told(ok, "layout")) or "–",
        own or "–",
        f"{ok.groupby(cases).ngroups} of {rows.groupby(cases).ngroups}",
        Cell(why_missing(failed), "bad") if len(failed) else "–",
    ]


if __name__ == "__main__":
    run_program(main)

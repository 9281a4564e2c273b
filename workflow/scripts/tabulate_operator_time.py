"""Table of where the time goes: every operator of the dense network, before and after quantisation, by engine."""

from sparsemark.files import run_program
from sparsemark.results.html_table import write_table
from sparsemark.results.measurements import (
    engine_title,
    engines_and_precisions,
    input_parser,
    load_benchmarks,
    load_profiles,
    one_core_origin,
    precision_title,
    select,
)

HEADER = ["Engine", "Precision", "Operator", "Kind", "Microseconds per word", "Share, %"]


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "profile").parse_args(arguments)
    profile = load_profiles(options.profile)
    rows = []
    for engine, precision in engines_and_precisions(profile):
        operators = select(profile, engine=engine, precision=precision)
        total = operators["microseconds"].sum()
        for _, operator in operators.sort_values("microseconds", ascending=False, kind="stable").iterrows():
            spent = operator["microseconds"]
            rows.append(
                [
                    engine_title(engine),
                    precision_title(precision),
                    operator["operator"],
                    operator["kind"],
                    f"{spent / operator['batch_size']:.2f}",
                    f"{100 * spent / total:.1f}",
                ]
            )
    note = "As the engines' own profilers tell, which slow them down a little; what an engine fuses is one operator."
    note = one_core_origin(profile, load_benchmarks(options.benchmarks), note)
    write_table(options.out, "Time per operator", note, HEADER, rows, HEADER[4:])


if __name__ == "__main__":
    run_program(main)

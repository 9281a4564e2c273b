"""Table of the quantisation ablation: what each variant quantises, its accuracy, its speed and its gain."""

from sparsemark.files import run_program
from sparsemark.results.html_table import Cell, write_table
from sparsemark.results.measurements import (
    ablation_gain,
    engine_title,
    in_order,
    input_parser,
    kilo,
    load_ablation,
    load_benchmarks,
    one_core_origin,
    select,
    times,
    why_missing,
    with_interval,
)

HEADER = ["Engine", "Variant", "Order", "Quantised", "Calibration", "Accuracy, %", "Words/s", "Over FP32"]


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "ablation").parse_args(arguments)
    ablation = load_ablation(options.ablation)
    rows = []
    for engine in in_order(ablation["engine"]):
        for _, variant in select(ablation, engine=engine).iterrows():
            row = [engine_title(engine), variant["variant"], variant["order"], variant["quantized"], variant["method"]]
            if gain := ablation_gain(variant):
                row += [f"{100 * variant['accuracy']:.2f}", kilo(variant["throughput_words_per_s"])]
                row += [with_interval(gain, times)]
            else:
                row += [Cell("–", "quiet"), Cell("–", "quiet"), Cell(why_missing(variant.to_frame().T), "bad")]
            rows.append(row)
    note = one_core_origin(ablation, load_benchmarks(options.benchmarks), "In brackets: the range over turns.")
    write_table(options.out, "What is quantised, and what it gains", note, HEADER, rows, HEADER[5:])


if __name__ == "__main__":
    run_program(main)

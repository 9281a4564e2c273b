"""What quantisation gains, by what is quantised: every variant of the ablation over FP32, with its accuracy."""

from sparsemark.files import run_program
from sparsemark.results.figures import Bar, Row, draw_rows, engine_colour, heading, new_figure, nothing, save
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
    why_missing,
)


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "ablation").parse_args(arguments)
    ablation = load_ablation(options.ablation)
    rows = []
    for engine in in_order(ablation["engine"]):
        rows.append(Row(engine_title(engine)))
        for _, variant in select(ablation, engine=engine).iterrows():
            if gain := ablation_gain(variant):
                note = f"{kilo(variant['throughput_words_per_s'])} words/s, {100 * variant['accuracy']:.1f} %"
            else:
                note = why_missing(variant.to_frame().T)
            rows.append(Row(variant["variant"], [Bar(gain, engine_colour(engine), note)]))
    figure, [axes] = new_figure(max(4, 1.45 * len(rows)))
    if rows:
        draw_rows(axes, rows, "Throughput INT8 / FP32, same engine", gains=True)
    else:
        nothing(axes, "This study has no engine whose quantisation could be taken apart.")
    titles = {engine_title(engine) for engine in ablation["engine"]}
    for label in axes.get_yticklabels():
        if label.get_text() in titles:
            label.set_fontweight("bold")
    heading(figure, "What quantisation gains, by what is quantised")
    note = "Behind each value: throughput, and accuracy on the test set. Whiskers: range over turns."
    save(figure, options.out, one_core_origin(ablation, load_benchmarks(options.benchmarks), note))


if __name__ == "__main__":
    run_program(main)

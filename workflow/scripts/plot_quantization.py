"""What quantisation gains, by what is quantised: throughput of every variant of the ablation, with its accuracy."""

from figures import Row, draw_rows, heading, new_figure, nothing, save, speed_bar
from files import run_program
from measurements import engine_title, in_order, load_ablation, origin, page_parser, select, times
from ratios import ratio


def main(arguments: list[str] | None = None) -> None:
    options = page_parser(__doc__, ablation="ablate_quantization.csv").parse_args(arguments)
    ablation = load_ablation(options.ablation)
    rows = []
    for engine in in_order(ablation["engine"]):
        own = select(ablation, engine=engine)
        whole = select(own, operators="")
        rows.append(Row(engine_title(engine)))
        for variant, cases in own.groupby("variant", sort=False):
            notes = []
            accuracies = select(cases, status="ok")["accuracy"].dropna()
            if len(accuracies):
                notes.append(f"{100 * accuracies.iloc[0]:.1f} %")
            gain = ratio(cases, whole)
            if gain and (cases["operators"] != "").all():
                notes.append(f"{times(gain.value)} FP32")
            rows.append(Row(variant, [speed_bar(cases, note=", ".join(notes))]))
    figure, [axes] = new_figure(1.45 * len(rows))
    if rows:
        draw_rows(axes, rows, "Throughput in words/s")
        titles = {engine_title(engine) for engine in ablation["engine"]}
        for label in axes.get_yticklabels():
            if label.get_text() in titles:
                label.set_fontweight("bold")
    else:
        nothing(axes, "This study does not vary what is quantised.")
    heading(figure, "What quantisation gains, by what is quantised")
    cases = ablation[["network", "batch_size", "cores"]].drop_duplicates().itertuples(index=False)
    note = "; ".join(
        f"Network {network}, batch size {size}, {'whole processor' if cores == 'all' else 'one core'}"
        for network, size, cores in cases
    )
    note += ". Behind each value: accuracy on the test set, and the gain over FP32."
    save(figure, options.out, origin(ablation, note=note))


if __name__ == "__main__":
    run_program(main)

"""Figure 1a: throughput of the dense network at batch size 1, per engine, on one thread and the whole processor."""

from sparsemark.files import run_program
from sparsemark.results.dense_throughput import plot
from sparsemark.results.measurements import input_parser


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(__doc__, "benchmarks", "networks").parse_args(arguments)
    plot(options.benchmarks, options.networks, 1, options.out)


if __name__ == "__main__":
    run_program(main)

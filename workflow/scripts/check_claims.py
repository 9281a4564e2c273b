"""Hold what the reproduced study says against what was measured here: a row per claim, with a verdict and its reason.

A verdict rests on an interval. A claim is confirmed if the whole interval lies where the claim puts it, refuted if the
whole interval lies elsewhere, and cannot be told if it lies on both sides of the limit. What was not measured, and what
is said of a machine that this one is not, is not measurable here. The row says why.
"""

import csv

from sparsemark.files import atomic_path, run_program
from sparsemark.results.claim_measures import Study
from sparsemark.results.claims import CLAIMS, COLUMNS, check
from sparsemark.results.measurements import (
    input_parser,
    load_ablation,
    load_accuracies,
    load_benchmarks,
    load_networks,
    load_published,
    load_specs,
)


def main(arguments: list[str] | None = None) -> None:
    options = input_parser(
        __doc__, "benchmarks", "networks", "accuracies", "config", "published", "ablation"
    ).parse_args(arguments)
    study = Study(
        load_benchmarks(options.benchmarks),
        load_networks(options.networks),
        load_accuracies(options.accuracies),
        load_published(options.published),
        load_specs(options.config),
        load_ablation(options.ablation) if options.ablation else None,
    )
    with atomic_path(options.out) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(check(claim, study) for claim in CLAIMS)


if __name__ == "__main__":
    run_program(main)

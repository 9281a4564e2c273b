"""Collect the `metrics.json` of trained and pruned networks into one table, a row per network and seed."""

from collections.abc import Iterator

from sparsemark.files import run_program
from sparsemark.results.csv_tables import collect, load_schema

KEY = ("network", "seed")


def rows_of(record: dict) -> Iterator[dict]:
    """Yield the table's row of one `metrics.json`."""
    values = {**record, "dataset_title": record.get("title"), "training_s": record.get("seconds")}
    yield {name: values.get(name) for name in load_schema("networks")["properties"]}


def main(arguments: list[str] | None = None) -> None:
    collect(arguments, __doc__, "networks", rows_of, KEY)


if __name__ == "__main__":
    run_program(main)

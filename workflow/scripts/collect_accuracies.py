"""Collect the results of `evaluate.py` into one table, a row per artefact."""

from collections.abc import Iterator

from sparsemark.files import run_program
from sparsemark.results.csv_tables import collect, load_schema

KEY = ("network", "precision", "engine", "seed")


def rows_of(record: dict) -> Iterator[dict]:
    """Yield the table's row of one result of `evaluate.py`."""
    values = dict(record)
    if execution := record.get("execution"):
        values.update(
            engine_version=execution["version"],
            executed_precision=execution["precision"],
            own_operator_share=execution["own_operator_share"],
        )
    yield {name: values.get(name) for name in load_schema("accuracies")["properties"]}


def main(arguments: list[str] | None = None) -> None:
    collect(arguments, __doc__, "accuracies", rows_of, KEY)


if __name__ == "__main__":
    run_program(main)

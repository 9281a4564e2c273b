"""Collect the results of `benchmark.py` into one table, a row per case, layout and round."""

import json
from collections.abc import Iterator

from sparsemark.files import run_program
from sparsemark.results.csv_tables import collect, load_schema

KEY = ("network", "precision", "engine", "batch_size", "cores", "round", "layout")


def rows_of(record: dict) -> Iterator[dict]:
    """Yield the table's rows of one result of `benchmark.py`."""
    columns = load_schema("benchmarks")["properties"]
    for row in record["rows"]:
        values = {**record["case"], **row}
        if execution := row.get("execution"):
            values.update(
                engine_version=execution["version"],
                executed_precision=execution["precision"],
                executed_threads=execution["threads"],
                instruction_set=execution["instruction_set"],
                own_operator_share=execution["own_operator_share"],
                settings=json.dumps(execution["details"], sort_keys=True),
                parity_error=row["parity"]["relative_error"],
                parity_agreement=row["parity"]["agreement"],
            )
        yield {name: values.get(name) for name in columns}


def main(arguments: list[str] | None = None) -> None:
    collect(arguments, __doc__, "benchmarks", rows_of, KEY)


if __name__ == "__main__":
    run_program(main)

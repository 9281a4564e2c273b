"""Collect the results of `benchmark.py` into one table, a row per case, round and layout.

A speed in words/s is a row's ratio times the reference's speed over the whole study, so only here it can be told.
"""

import json
import math
from collections.abc import Iterator

import pandas as pd

from sparsemark.files import run_program
from sparsemark.results.csv_tables import collect, load_schema
from sparsemark.results.ratios import reference_speeds

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


def add_speeds(rows: list[dict]) -> None:
    """Give every row that has a ratio its throughput."""
    table = pd.DataFrame(rows, columns=list(load_schema("benchmarks")["properties"]))
    numbers = ["ratio", "reference_words_per_s", "base_ratio"]
    table[numbers] = table[numbers].astype(float)
    speeds = reference_speeds(table.assign(is_reference=table["is_reference"].eq(True)))
    for row in rows:
        speed = speeds.get((row["batch_size"], row["cores"]))
        if row["ratio"] is not None and speed is not None:
            row["throughput_words_per_s"] = round(row["ratio"] * math.exp(speed.value), 3)


def main(arguments: list[str] | None = None) -> None:
    collect(arguments, __doc__, "benchmarks", rows_of, KEY, add_speeds)


if __name__ == "__main__":
    run_program(main)

"""Result tables that other programs read: CSV files whose columns a schema documents."""

import argparse
import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jsonschema
import yaml

from sparsemark.files import InputError, atomic_path, read_json

SCHEMAS = Path(__file__).parents[3] / "schemas"


def load_schema(table: str) -> dict:
    """Return the schema of one row of `table`; its properties are the columns, in order."""
    return yaml.safe_load((SCHEMAS / f"{table}.schema.yaml").read_text(encoding="utf-8"))


def checked(rows: Iterable[dict], schema: dict, source: Path) -> list[dict]:
    """Return `rows` if each is as the schema says.

    Raises:
        InputError: names `source`, the column and what was expected.
    """
    validator = jsonschema.Draft202012Validator(schema)
    rows = list(rows)
    for row in rows:
        if error := jsonschema.exceptions.best_match(validator.iter_errors(row)):
            column = ".".join(map(str, error.absolute_path))
            raise InputError(f"{source}: {column + ': ' if column else ''}{error.message}")
    return rows


def write_table(path: Path, rows: Sequence[dict], schema: dict, key: Sequence[str]) -> None:
    """Write `rows` as CSV, sorted by the columns `key`, atomically. What a row lacks is an empty cell."""
    columns = list(schema["properties"])
    ordered = sorted(rows, key=lambda row: tuple(row[column] for column in key))
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(ordered)


def collect(
    arguments: list[str] | None,
    description: str,
    table: str,
    rows_of: Callable[[dict], Iterable[dict]],
    key: Sequence[str],
    complete: Callable[[list[dict]], None] = lambda rows: None,
) -> None:
    """Be the program that collects JSON results into `table`: read each, check its rows, write the sorted table.

    Args:
        rows_of: makes the rows of one JSON file; a KeyError or TypeError in it means that the file is another thing.
        key: columns that the table is sorted by.
        complete: adds to the rows what only all of them together tell.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, fromfile_prefix_chars="@"
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="JSON", help="results; @FILE reads names from a file")
    parser.add_argument("--out", required=True, type=Path, metavar="CSV", help="the table")
    options = parser.parse_args(arguments)
    schema = load_schema(table)
    rows = []
    for path in options.files:
        record = read_json(path)
        try:
            found = list(rows_of(record))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: expected a result for {table}.csv ({type(error).__name__}: {error})") from error
        rows += checked(found, schema, path)
    complete(rows)
    write_table(options.out, rows, schema, key)
    print(f"{options.out}: {len(rows)} rows from {len(options.files)} files")

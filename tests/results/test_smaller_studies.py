"""Figures, tables and claims of a study with fewer engines or networks than the default one stay whole."""

import csv
import importlib
from pathlib import Path

import pandas as pd
import pytest
import test_pages
import test_plots
from constructed_tables import write_tables

import check_claims
from sparsemark.results.claims import CLAIMS, UNDECIDED

#: All but what Snakemake's records of jobs are told by, whatever the study.
PROGRAMS = {
    name: inputs for name, inputs in (test_plots.OPTIONS | test_pages.OPTIONS).items() if "metadata" not in inputs
}
ROOT = Path(__file__).parents[2]
CSV_TABLES = ("benchmarks", "networks", "accuracies", "ablation", "profile")


def smaller_study(folder: Path, column: str, kept: list[str]) -> dict[str, list[str]]:
    """Write the constructed tables with some rows only, and the claims; return the files of each option.

    The tables of an engine's tools are files of the engine: without it, there are none.
    """
    write_tables(folder)
    files = {}
    for name in CSV_TABLES:
        path = folder / f"{name}.csv"
        table = pd.read_csv(path)
        if column in table:
            table = table[table[column].isin(kept)]
        table.to_csv(path, index=False)
        files[name] = [str(path)] if len(table) or name not in ("ablation", "profile") else []
    files |= {"published": [str(ROOT / "resources/fpga.csv")], "config": [str(folder / "config.yaml")]}
    inputs = ("benchmarks", "networks", "accuracies", "config", "published", "ablation")
    check_claims.main([*options(files, inputs), "--out", str(folder / "claims.csv")])
    return files | {"claims": [str(folder / "claims.csv")]}


def options(files: dict[str, list[str]], names: tuple[str, ...] | list[str]) -> list[str]:
    return [part for name in names for part in (f"--{name}", *files[name])]


@pytest.mark.parametrize(
    ("column", "kept"),
    [
        ("engine", ["onnxruntime", "dualsparse"]),
        ("engine", ["pytorch_eager"]),
        ("network", ["dense"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_everything_is_made_of_what_there_is(tmp_path, column, kept):
    files = smaller_study(tmp_path, column, kept)
    with open(tmp_path / "claims.csv", newline="", encoding="utf-8") as handle:
        claims = {row["claim"]: row for row in csv.DictReader(handle)}
    assert list(claims) == [claim.name for claim in CLAIMS]
    # The claim of an engine and a network that are one of which is absent from every one of these studies.
    assert claims["deepsparse-uses-sparsity"]["verdict"] == UNDECIDED
    assert claims["deepsparse-uses-sparsity"]["reason"]
    for name, inputs in PROGRAMS.items():
        out = tmp_path / f"page.{'svg' if name.startswith('plot_') else 'html'}"
        importlib.import_module(name).main([*options(files, inputs), "--out", str(out)])
        assert out.stat().st_size > 100, name
        out.unlink()

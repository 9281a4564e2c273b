"""The control of sparsity, and networks from files: beside the study's networks, and alone."""

import csv
import importlib
import re
from pathlib import Path

import pytest
import test_plots
from constructed_tables import (
    accuracy_rows,
    benchmark_rows,
    network_rows,
    own_benchmark_rows,
    own_network_rows,
    with_small_dense,
    write_tables,
)
from docutils.core import publish_parts
from test_pages import TableReader

import check_claims
import summarize_study
from sparsemark.results.claims import CONFIRMED, REFUTED, UNDECIDED
from sparsemark.results.measurements import load_all_networks, load_networks, small_dense_networks, sparse_networks

ROOT = Path(__file__).parents[2]


def verdict(folder: Path) -> dict[str, str]:
    arguments = [
        *("--benchmarks", folder / "benchmarks.csv", "--networks", folder / "networks.csv"),
        *("--accuracies", folder / "accuracies.csv", "--config", folder / "config.yaml"),
        *("--published", ROOT / "resources/fpga.csv", "--ablation", folder / "ablation.csv"),
    ]
    check_claims.main([*map(str, arguments), "--out", str(folder / "claims.csv")])
    with open(folder / "claims.csv", newline="", encoding="utf-8") as handle:
        return next(row for row in csv.DictReader(handle) if row["claim"] == "sparse-beats-small-dense")


def test_the_sparse_network_is_held_against_the_fastest_small_dense_one_that_is_as_accurate(tmp_path):
    """dualsparse INT8 on `dual` runs 20,000 × 16 words/s; OpenVINO INT8 on `small` 30,000 × 3."""
    write_tables(tmp_path, *with_small_dense())
    row = verdict(tmp_path)
    assert float(row["value"]) == pytest.approx(20000 * 16 / (30000 * 3), rel=1e-3)
    assert row["verdict"] == CONFIRMED
    assert "dual (dualsparse INT8), 95.0 %" in row["reason"] and "small (OpenVINO INT8), 97.0 %" in row["reason"]


def test_a_faster_small_dense_network_refutes_it(tmp_path):
    benchmarks, networks, accuracies = with_small_dense()
    for row in benchmarks:
        if row["network"] == "small" and row["ratio"]:
            row["ratio"] *= 5
    write_tables(tmp_path, benchmarks, networks, accuracies)
    assert verdict(tmp_path)["verdict"] == REFUTED


def test_a_small_dense_network_of_less_accuracy_is_no_rival(tmp_path):
    write_tables(tmp_path, *with_small_dense(accuracy=0.90))
    row = verdict(tmp_path)
    assert row["verdict"] == UNDECIDED
    assert "no smaller dense network is as accurate as dual (dualsparse INT8), 95.0 %" in row["reason"]
    write_tables(tmp_path)
    assert "no smaller dense network has a speed" in verdict(tmp_path)["reason"]


def test_the_control_s_networks_are_no_sparse_ones(tmp_path):
    write_tables(tmp_path, *with_small_dense())
    networks = load_networks(tmp_path / "networks.csv")
    assert small_dense_networks(networks) == ["small"]
    assert "small" not in sparse_networks(networks)
    text = test_plots.draw("plot_small_dense", tmp_path, tmp_path / "figure.svg")
    assert "small, OpenVINO" in text and "dual, dualsparse" in text and "smaller dense networks" in text
    assert "has no smaller dense network" not in text
    write_tables(tmp_path)
    assert "no smaller dense network" in test_plots.draw("plot_small_dense", tmp_path, tmp_path / "figure.svg")


def beside(folder: Path) -> None:
    write_tables(folder, benchmark_rows() + own_benchmark_rows(), network_rows() + own_network_rows())


def alone(folder: Path) -> None:
    accuracies = [row | {"network": "mine", "accuracy": 0.75} for row in accuracy_rows() if row["network"] == "dense"]
    write_tables(folder, own_benchmark_rows(alone=True), own_network_rows(), accuracies)


def test_networks_from_files_change_nothing_in_the_study_s_own_figures(tmp_path):
    write_tables(tmp_path)
    figures = [name for name in test_plots.OPTIONS if name != "plot_own_networks"]
    without = {name: test_plots.draw(name, tmp_path, tmp_path / "figure.svg") for name in figures}
    row = verdict(tmp_path)
    beside(tmp_path)
    assert {name: test_plots.draw(name, tmp_path, tmp_path / "figure.svg") for name in figures} == without
    assert verdict(tmp_path) == row
    assert len(load_all_networks(tmp_path / "networks.csv")) == len(load_networks(tmp_path / "networks.csv")) + 2


@pytest.mark.parametrize("write", [beside, alone])
def test_the_figure_shows_every_engine_and_the_gain_of_the_what_if(tmp_path, write):
    write(tmp_path)
    text = test_plots.draw("plot_own_networks", tmp_path, tmp_path / "figure.svg")
    assert "DeepSparse FP32" in text and "light, 2.00×" in text and "light, 1.00×" in text
    assert "images/s" in text and "my.npz, 32 test images" in text and "speed only" in text


@pytest.mark.parametrize("write", [beside, alone])
@pytest.mark.parametrize("page", ["tabulate_networks", "tabulate_accuracies", "tabulate_benchmarks"])
def test_the_tables_have_them(tmp_path, write, page):
    write(tmp_path)
    tables = ["networks", "accuracies"] if page == "tabulate_accuracies" else ["benchmarks", "networks", "accuracies"]
    if page == "tabulate_networks":
        tables = ["benchmarks", "networks"]
    arguments = [part for name in tables for part in (f"--{name}", str(tmp_path / f"{name}.csv"))]
    if page == "tabulate_networks":
        arguments += ["--config", str(tmp_path / "config.yaml")]
    importlib.import_module(page).main([*arguments, "--out", str(tmp_path / "page.html")])
    reader = TableReader()
    reader.feed((tmp_path / "page.html").read_text())
    rows = {row[0] if page != "tabulate_benchmarks" else row[1]: row for row in reader.rows}
    assert {"mine", "light"} <= rows.keys()
    if page == "tabulate_networks":
        assert rows["mine"][1] == "from a file" and rows["light"][1] == "what-if: unstructured, pruned"
        assert rows["mine"][2] == "75.0 [57.9, 86.7]" and rows["light"][2] == "–"
        gains = dict(zip(reader.rows[0], rows["light"], strict=True))
        assert gains["DeepSparse FP32"] == "2.00×" and gains["Gain the MACs allow"] == "10.0×"


@pytest.mark.parametrize("write", [beside, alone])
def test_the_summary_tells_of_them(tmp_path, write):
    write(tmp_path)
    arguments = [str(a) for n in ("benchmarks", "networks", "accuracies") for a in (f"--{n}", tmp_path / f"{n}.csv")]
    if write is beside:
        verdict(tmp_path)
        arguments += ["--claims", str(tmp_path / "claims.csv")]
    summarize_study.main([*arguments, "--out", str(tmp_path / "summary.rst")])
    text = (tmp_path / "summary.rst").read_text()
    plain = re.sub(r"<[^>]+>", "", publish_parts(text, writer="html5")["body"])
    assert "mine, batch size 64, whole processor, fastest in images/s: OpenVINO 20.0k" in plain.replace(
        "30.0k", "20.0k"
    )
    assert "the largest gain of a what-if, 2.00×" in plain and "(light in DeepSparse FP32)" in plain
    assert ("Claims of the study" in plain) == (write is beside)
    assert "my.npz, 32 test images" in plain

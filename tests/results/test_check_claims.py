"""Claims: verdicts from intervals, on constructed tables with known ratios."""

import csv
from pathlib import Path

import numpy as np
import pytest
from constructed_tables import benchmark_rows, network_rows, write_tables

import check_claims
from sparsemark.results.claim_measures import Finding
from sparsemark.results.claims import CLAIMS, COLUMNS, CONFIRMED, OPEN, REFUTED, UNDECIDED, VERDICTS, Claim, check
from sparsemark.results.ratios import Estimate

ROOT = Path(__file__).parents[2]


def claims(folder: Path, **tables) -> dict[str, dict]:
    """Return the rows of claims.csv by name, for a study of constructed tables."""
    write_tables(folder, **tables)
    arguments = ["--published", str(ROOT / "resources/fpga.csv"), "--config", str(folder / "config.yaml")]
    for name in ("benchmarks", "networks", "accuracies"):
        arguments += [f"--{name}", str(folder / f"{name}.csv")]
    check_claims.main([*arguments, "--ablation", "--out", str(folder / "claims.csv")])
    with (folder / "claims.csv").open(newline="", encoding="utf-8") as handle:
        return {row["claim"]: row for row in csv.DictReader(handle)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return claims(tmp_path_factory.mktemp("study"))


def test_every_claim_has_a_row_with_a_verdict(rows):
    assert list(rows) == [claim.name for claim in CLAIMS]
    assert len(set(rows)) == len(CLAIMS)
    for row in rows.values():
        assert list(row) == COLUMNS
        assert row["verdict"] in VERDICTS
        assert row["reason"]
        if row["verdict"] != UNDECIDED:
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("batch-whole-processor", 2.0, CONFIRMED),
        ("batch-one-thread", 2.0, CONFIRMED),
        ("one-word-many-threads", 2.0, CONFIRMED),
        ("engines-beat-pytorch", 5.0, CONFIRMED),
        ("int8-muted", 30000 / 11000, CONFIRMED),
        ("onnxruntime-ignores-sparsity", 1.0, CONFIRMED),
        ("openvino-ignores-sparsity", 1.0, CONFIRMED),
        ("deepsparse-uses-sparsity", 2.5, CONFIRMED),
        ("sparse-gain-2-3", 2.5, CONFIRMED),
        ("no-engine-uses-both", 2.0, REFUTED),
        # Half a point is less than what 4,890 clips tell apart.
        ("sparse-accuracy", 0.1, OPEN),
        ("sparse-work", 20.0, CONFIRMED),
        ("dense-accuracy", 97.2, CONFIRMED),
    ],
)
def test_measured_claims(rows, name, value, verdict):
    assert float(rows[name]["value"]) == pytest.approx(value, rel=1e-3)
    assert rows[name]["verdict"] == verdict


def test_a_statement_about_24_cores_is_not_decided_by_2(rows):
    for name in ("cpu-beats-fpga-dense", "fpga-sparse-dense-6", "fpga-sparse-sparse-12"):
        assert rows[name]["verdict"] == UNDECIDED
        assert "24 cores; this one has 2" in rows[name]["reason"]
        assert float(rows[name]["value"]) > 1


def test_24_cores_decide_it(tmp_path):
    big = [
        row
        | {"layout": {"1x2": "1x24", "2x1": "24x1"}.get(row["layout"], row["layout"])}
        | ({"reference_words_per_s": 2 * row["reference_words_per_s"]} if row["status"] == "ok" else {})
        for row in benchmark_rows()
    ]
    found = claims(tmp_path, benchmarks=big)
    assert found["cpu-beats-fpga-dense"]["verdict"] == CONFIRMED
    assert float(found["cpu-beats-fpga-dense"]["value"]) == pytest.approx(60000 / 12195, rel=1e-3)
    # Against 80,000 words/s, the speed of DeepSparse on the pruned network.
    assert float(found["fpga-sparse-sparse-12"]["value"]) == pytest.approx(1369863 / 80000, rel=1e-3)
    assert found["fpga-sparse-sparse-12"]["verdict"] == CONFIRMED


def test_what_was_not_measured_says_why(rows):
    assert rows["tvm-batch-flat"]["reason"] == "TVM: not in this study"
    assert "FPGA" in rows["fpga-gain-112"]["reason"]
    assert "three batch sizes" in rows["batch-size-matters"]["reason"]
    for name in ("tvm-batch-flat", "fpga-gain-112", "batch-size-matters", "max-pool-hurts"):
        assert rows[name]["verdict"] == UNDECIDED
        assert rows[name]["value"] == ""


def test_the_ablation_decides_what_max_pool_costs(tmp_path):
    write_tables(tmp_path)
    arguments = ["--published", str(ROOT / "resources/fpga.csv"), "--config", str(tmp_path / "config.yaml")]
    for name in ("benchmarks", "networks", "accuracies", "ablation"):
        arguments += [f"--{name}", str(tmp_path / f"{name}.csv")]
    check_claims.main([*arguments, "--out", str(tmp_path / "claims.csv")])
    with (tmp_path / "claims.csv").open(newline="", encoding="utf-8") as handle:
        [row] = [row for row in csv.DictReader(handle) if row["claim"] == "max-pool-hurts"]
    assert (row["value"], row["verdict"]) == ("1.6", CONFIRMED)


def test_another_data_set_does_not_decide_its_accuracy(tmp_path):
    found = claims(tmp_path, networks=[row | {"dataset": "synthetic_speech"} for row in network_rows()])
    assert found["dense-accuracy"]["verdict"] == UNDECIDED
    assert "Speech Commands" in found["dense-accuracy"]["reason"]


def test_one_round_decides_nothing(tmp_path):
    found = claims(tmp_path, benchmarks=[row for row in benchmark_rows() if row["round"] == 1])
    row = found["batch-whole-processor"]
    assert (row["value"], row["low"], row["verdict"]) == ("2", "", UNDECIDED)
    assert "one round" in row["reason"]


def test_a_study_without_measurements(tmp_path):
    found = claims(tmp_path, benchmarks=[], networks=[row for row in network_rows() if row["network"] == "dense"])
    assert {row["verdict"] for name, row in found.items() if name != "dense-accuracy"} == {UNDECIDED}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(2.1, 2.9, CONFIRMED), (1.0, 1.9, REFUTED), (3.1, 4.0, REFUTED), (1.9, 2.5, OPEN), (2.5, 3.5, OPEN)],
)
def test_verdict_needs_the_whole_interval(low, high, verdict):
    estimate = Estimate((low + high) / 2, low, high, 5)
    claim = Claim("name", "statement", "ratio", lambda study: Finding(estimate, "detail"), above=2, below=3)
    assert check(claim, None)["verdict"] == verdict


def test_an_estimate_without_interval_is_written_without_one():
    claim = Claim("name", "statement", "ratio", lambda study: Finding(Estimate(5.0, np.nan, np.nan, 1), "d"), above=2)
    row = check(claim, None)
    assert (row["value"], row["low"], row["high"], row["verdict"]) == ("5", "", "", UNDECIDED)


def scaled(gain: float, **values: object) -> list[dict]:
    """The constructed rows, those with these values faster by a gain."""
    return [
        row | {"ratio": gain * row["ratio"]} if row["ratio"] and all(row[key] == values[key] for key in values) else row
        for row in benchmark_rows()
    ]


def test_a_claim_of_int8_looks_at_single_words_too(tmp_path):
    row = claims(tmp_path, benchmarks=scaled(2, engine="openvino", precision="int8", batch_size=1, cores="1"))
    assert float(row["int8-muted"]["value"]) == pytest.approx(2 * 30 / 11, rel=1e-3)
    assert row["int8-muted"]["verdict"] == REFUTED
    assert "OpenVINO, batch size 1, one core" in row["int8-muted"]["reason"]


@pytest.mark.parametrize(("engine", "precision"), [("pytorch_eager", "fp32"), ("onnxruntime", "int8")])
def test_every_engine_means_every_engine_and_precision(tmp_path, engine, precision):
    slow = {"engine": engine, "precision": precision, "network": "dense"}
    found = claims(tmp_path, benchmarks=scaled(0.3, **slow, batch_size=64, cores="1"))
    assert found["batch-one-thread"]["verdict"] == REFUTED
    assert found["batch-whole-processor"]["verdict"] == CONFIRMED
    found = claims(tmp_path, benchmarks=scaled(0.3, **slow, batch_size=1, cores="all"))
    assert found["one-word-many-threads"]["verdict"] == REFUTED
    assert precision.upper() in found["one-word-many-threads"]["reason"]


def test_what_a_claim_leaves_out_is_said(tmp_path):
    rows = [
        row | {"layout": "2x1"} if (row["engine"], row["batch_size"], row["cores"]) == ("openvino", 1, "all") else row
        for row in benchmark_rows()
        if (row["engine"], row["batch_size"], row["layout"]) != ("openvino", 1, "2x1")
    ]
    reason = claims(tmp_path, benchmarks=rows)["one-word-many-threads"]["reason"]
    assert "left out, several instances are faster there: OpenVINO FP32, OpenVINO BF16, OpenVINO INT8" in reason


def test_an_engine_that_ignores_sparsity_does_so_for_single_words_too(tmp_path):
    found = claims(tmp_path, benchmarks=scaled(1.5, engine="openvino", network="pruned", batch_size=1, cores="1"))
    assert found["openvino-ignores-sparsity"]["verdict"] == REFUTED
    assert found["onnxruntime-ignores-sparsity"]["verdict"] == CONFIRMED


def test_one_seed_gives_an_accuracy_the_interval_of_its_clips(tmp_path):
    row = claims(tmp_path, networks=[row for row in network_rows() if row["seed"] == 1])["dense-accuracy"]
    assert (row["verdict"], row["low"]) == (UNDECIDED, "")
    assert "97.1 [96.6, 97.5] % by the test clips, 1 seed, " in row["reason"]

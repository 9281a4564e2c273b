"""The result tables: what the collectors take, refuse and write."""

import csv
import json

import jsonschema
import pytest

import collect_accuracies
import collect_benchmarks
import collect_networks
from sparsemark.files import InputError
from sparsemark.results.csv_tables import load_schema

EXECUTION = {
    "version": "1.2",
    "threads": 1,
    "precision": "fp32",
    "instruction_set": "",
    "own_operator_share": None,
    "details": {"b": "2", "a": "1"},
}
CASE = {
    "engine": "onnxruntime",
    "engine_title": "ONNX Runtime",
    "network": "dense",
    "dataset": "synthetic_speech",
    "class_set": "commands",
    "seed": 1,
    "precision": "fp32",
    "batch_size": 64,
    "cores": "all",
    "machine": "Some CPU, 2 cores [01234567]",
    "model_sha256": "0" * 64,
}
STATE = {"load_average": 0.1, "governor": "", "turbo": "", "measured_at": "2026-01-01T00:00:00Z"}
MEASURED = {
    **STATE,
    "layout": "2x1",
    "round": 1,
    "is_reference": False,
    "status": "ok",
    "reason": "",
    "ratio": 2.5,
    "reference_words_per_s": 4.0,
    "latency_ms_p50": 3.0,
    "samples": 10,
    "execution": EXECUTION,
    "parity": {"relative_error": 1e-6, "agreement": 1.0},
    "cpus": [[0], [1]],
}
FAILED = {**STATE, "layout": "1x2", "round": 1, "status": "failed", "reason": 'SIGSEGV, "gone"'}
METRICS = {
    "network": "dense",
    "kind": "trained",
    "unit": "words",
    "dataset": "synthetic_speech",
    "title": "Synthetic speech",
    "class_set": "commands",
    "seed": 1,
    "accuracy": 0.9,
    "test_clips": 100,
    "validation_accuracy": 0.91,
    "parameters": 2522128,
    "weights": 2522000,
    "nonzero_weights": 2521984,
    "macs": 13912400,
    "nonzero_macs": 13912400,
    "epochs": 3,
    "seconds": 12.5,
    "layers": [],
}


@pytest.fixture
def collected(tmp_path):
    def run(program, *records):
        paths = []
        for number, record in enumerate(records):
            paths.append(tmp_path / f"{number}.json")
            paths[-1].write_text(record if isinstance(record, str) else json.dumps(record))
        out = tmp_path / "table.csv"
        program.main([*map(str, paths), "--out", str(out)])
        with out.open(newline="") as handle:
            return list(csv.DictReader(handle))

    return run


@pytest.mark.parametrize("table", ["benchmarks", "networks", "accuracies"])
def test_every_column_is_described_and_every_unit_named(table):
    schema = load_schema(table)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert all(column.get("description", "").endswith(".") for column in schema["properties"].values())
    for name, column in schema["properties"].items():
        if name.endswith(("_s", "_ms", "_mib", "_gflops")):
            assert "unit" in column, name


def test_benchmarks_have_a_row_per_layout_sorted(collected):
    other = {"case": {**CASE, "engine": "another", "batch_size": 1}, "rows": [FAILED]}
    rows = collected(collect_benchmarks, {"case": CASE, "rows": [MEASURED, FAILED]}, other)
    assert [(row["engine"], row["layout"]) for row in rows] == [
        ("another", "1x2"),
        ("onnxruntime", "1x2"),
        ("onnxruntime", "2x1"),
    ]
    assert list(rows[0]) == list(load_schema("benchmarks")["properties"])
    failed, measured = rows[1:]
    assert (failed["status"], failed["reason"], failed["throughput_words_per_s"]) == ("failed", 'SIGSEGV, "gone"', "")
    assert (measured["ratio"], measured["reference_words_per_s"]) == ("2.5", "4.0")
    assert measured["engine_version"] == "1.2" and measured["executed_precision"] == "fp32"
    assert json.loads(measured["settings"]) == {"a": "1", "b": "2"}
    assert measured["own_operator_share"] == ""


def test_a_speed_is_the_ratio_times_the_references_speed_over_the_whole_study(collected):
    def of(cores, rows):
        return {"case": {**CASE, "cores": cores}, "rows": [{**MEASURED, **row} for row in rows]}

    # The base ran at 100, 140 and 110 words/s; on all cores the reference is 2 or 8 times as fast: 4 times.
    base = of("1", [{"round": n, "ratio": 1.0, "reference_words_per_s": v} for n, v in enumerate((100, 140, 110), 1)])
    whole = of(
        "all", [{"round": n, "ratio": 1.0, "base_ratio": v, "is_reference": True} for n, v in enumerate((2, 8), 1)]
    )
    other = of("all", [{"round": n, "ratio": v} for n, v in enumerate((3.0, 4.0), 1)])
    rows = collected(collect_benchmarks, base, whole, {**other, "case": {**other["case"], "engine": "tvm"}})
    speeds = [float(row["throughput_words_per_s"]) for row in rows]
    assert speeds == [110.0] * 3 + [440.0] * 2 + [1320.0, 1760.0]


def test_networks(collected):
    rows = collected(collect_networks, {**METRICS, "seed": 2}, METRICS)
    assert [row["seed"] for row in rows] == ["1", "2"]
    assert rows[0]["accuracy"] == "0.9" and rows[0]["training_s"] == "12.5"


def test_accuracies(collected):
    case = {key: value for key, value in CASE.items() if key not in ("cores", "machine")}
    good = {**case, "status": "ok", "reason": "", "accuracy": 0.5, "test_clips": 10, "execution": EXECUTION}
    bad = {**case, "engine": "another", "status": "timeout", "reason": "too slow"}
    rows = collected(collect_accuracies, good, bad)
    assert [(row["engine"], row["accuracy"], row["status"]) for row in rows] == [
        ("another", "", "timeout"),
        ("onnxruntime", "0.5", "ok"),
    ]


def test_an_empty_study_is_a_table_without_rows(collected):
    assert collected(collect_networks) == []


@pytest.mark.parametrize(
    ("program", "record", "message"),
    [
        (collect_networks, "{", r"0\.json: expected a readable JSON file"),
        (collect_networks, [], r"0\.json: expected a result for networks\.csv"),
        (collect_networks, {"network": "dense"}, r"0\.json: .*None is not of type"),
        (collect_networks, {**METRICS, "accuracy": 90}, r"0\.json: accuracy: 90 is greater than"),
        (collect_benchmarks, {"case": CASE}, r"0\.json: expected a result for benchmarks\.csv"),
        (collect_benchmarks, {"case": CASE, "rows": [{**FAILED, "status": "meh"}]}, r"0\.json: status: 'meh'"),
        (collect_benchmarks, {"case": CASE, "rows": [{**MEASURED, "ratio": 0}]}, "ratio: 0 is"),
    ],
)
def test_what_is_no_result_is_refused_in_one_sentence(collected, tmp_path, program, record, message):
    with pytest.raises(InputError, match=message):
        collected(program, record)
    assert not (tmp_path / "table.csv").exists()

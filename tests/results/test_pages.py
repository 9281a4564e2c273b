"""Pages of the report: tables as HTML, and the summary that opens it."""

import importlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from constructed_tables import REASON, accuracy_rows, benchmark_rows, network_rows, write_tables
from docutils.core import publish_parts

import check_claims
from sparsemark.files import InputError
from sparsemark.results.html_table import Cell, write_table
from sparsemark.results.measurements import engine_title

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "tabulate_benchmarks": ["benchmarks", "networks", "accuracies"],
    "tabulate_networks": ["benchmarks", "networks", "config"],
    "tabulate_accuracies": ["networks", "accuracies"],
    "tabulate_engines": ["benchmarks"],
    "tabulate_quantization": ["benchmarks", "ablation"],
    "tabulate_operator_time": ["benchmarks", "profile"],
    "tabulate_dualsparse": ["benchmarks", "networks", "accuracies"],
    "tabulate_claims": ["claims"],
    "tabulate_time": ["metadata", "benchmarks"],
    "summarize_study": ["benchmarks", "networks", "accuracies", "claims"],
}


class TableReader(HTMLParser):
    """Collects the rows of the tables in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def read_rows(path: Path) -> list[list[str]]:
    reader = TableReader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.rows


def make(name: str, folder: Path, **tables) -> Path:
    """Run a page's program on constructed tables; return what it wrote."""
    write_tables(folder, **tables)
    paths = {
        key: folder / f"{key}.csv" for key in ("benchmarks", "networks", "accuracies", "claims", "ablation", "profile")
    }
    paths |= {"published": ROOT / "resources/fpga.csv", "config": folder / "config.yaml"}
    paths["metadata"] = folder / "metadata"
    if "claims" in OPTIONS[name]:
        inputs = ("benchmarks", "networks", "accuracies", "published", "config")
        arguments = [part for key in inputs for part in (f"--{key}", str(paths[key]))]
        check_claims.main([*arguments, "--ablation", "--out", str(paths["claims"])])
    out = folder / "page.html"
    arguments = [part for option in OPTIONS[name] for part in (f"--{option}", str(paths[option]))]
    importlib.import_module(name).main([*arguments, "--out", str(out)])
    return out


def test_every_table_is_listed_and_has_a_caption():
    scripts = {path.stem for path in (ROOT / "workflow/scripts").glob("tabulate_*.py")}
    assert scripts == {name for name in OPTIONS if name.startswith("tabulate")}
    assert all((ROOT / f"report/{name}.rst").exists() for name in scripts)


def test_every_case_is_a_row(tmp_path):
    rows = read_rows(make("tabulate_benchmarks", tmp_path))
    cases = {
        tuple(str(row[key]) for key in ("engine", "network", "precision", "batch_size", "cores"))
        for row in benchmark_rows()
    }
    assert len(rows) - 1 == len(cases)
    unsupported = [row for row in rows if row[0] == engine_title("tvm")]
    assert len(unsupported) == 4 * 2 * 2
    assert all(row[-1] == f"unsupported: {REASON}" for row in unsupported)


def test_networks_tell_weights_work_and_gains(tmp_path):
    header, *rows = read_rows(make("tabulate_networks", tmp_path))
    pruned = dict(zip(header, next(row for row in rows if row[0] == "pruned"), strict=True))
    assert pruned["Made sparse by"] == "unstructured, pruned"
    assert pruned["Accuracy, %"] == "97.1 [96.6, 97.5], seeds 97.0 to 97.2"
    assert pruned["Remaining MACs"] == "696k (5.0%)"
    assert pruned["Gain the MACs allow"] == "20.0×"
    assert pruned["DeepSparse FP32"] == "2.50×"
    assert f"{engine_title('tvm')} INT8" not in header


def test_accuracies_of_all_seeds_stand_side_by_side(tmp_path):
    header, *rows = read_rows(make("tabulate_accuracies", tmp_path))
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert table["dense"]["FP32, %"] == "97.2 [96.7, 97.6], seeds 97.1 to 97.3"
    assert table["dense"]["Points from dense"] == "–"
    # A tenth of a point is far within what 4,890 clips tell.
    assert (table["pruned"]["Points from dense"], table["pruned"]["Seeds"]) == ("none told [-0.8, +0.6]", "3")
    # Of INT8 there are three seeds, too; of TVM there is none.
    assert table["pruned"]["OpenVINO INT8, %"] == "95.0 [94.4, 95.6], seeds 94.0 to 96.0"
    assert f"{engine_title('tvm')} INT8, %" not in header


def test_engines_tell_what_ran(tmp_path):
    header, *rows = read_rows(make("tabulate_engines", tmp_path))
    told = {(row[0], row[2]): dict(zip(header, row, strict=True)) for row in rows}
    assert told["OpenVINO", "BF16"]["Precision that ran"] == "BF16"
    assert told["OpenVINO", "BF16"]["Own operators"] == "100 %"
    assert told[engine_title("tvm"), "INT8"]["Cases with a speed"] == "0 of 16"


def test_dualsparse_is_compared_with_its_rivals_on_one_core(tmp_path):
    header, *rows = read_rows(make("tabulate_dualsparse", tmp_path))
    assert [row[:3] for row in rows] == [
        [size, network, "INT8"] for size in ("1", "64") for network in ("pruned", "block", "dual")
    ]
    dual = dict(zip(header, rows[-1], strict=True))
    # 20,000 words/s × 16 (sparse) / 2 (one core), beside 10,000 / 2, 30,000 / 2 and 16,000 × 2.5 / 2.
    assert dual["Words/s, one core"] == "160k [160k, 160k]"
    assert dual["Over the dense FP32 network in ONNX Runtime"] == "32.0× [32.0×, 32.0×]"
    assert dual["Over the fastest dense INT8 engine"] == "10.7× [10.7×, 10.7×] (OpenVINO)"
    assert (
        dual["Over the fastest other engine on a sparse network"] == "8.00× [8.00×, 8.00×] (DeepSparse, pruned, FP32)"
    )
    assert dual["Whole processor over one core"] == "2.00× [2.00×, 2.00×]"
    # 95 % beside 97.1 %, the dense network's first seed.
    assert (dual["Accuracy, %"], dual["Points from dense FP32"]) == (
        "95.0 [94.4, 95.6], seeds 94.0 to 96.0",
        "-2.2 [-3.0, -1.4]",
    )


def test_quantisation_in_numbers(tmp_path):
    rows = read_rows(make("tabulate_quantization", tmp_path))[1:]
    assert rows[2][-3:] == ["95.00", "24.0k", "2.40× [2.38×, 2.42×]"]
    assert rows[3][1] == "only conv1" and rows[3][-1] == "failed: refused"
    rows = read_rows(make("tabulate_operator_time", tmp_path))[1:]
    assert rows[0] == ["ONNX Runtime", "FP32", "/convolution", "convolution", "80.00", "80.0"]
    assert rows[3] == ["ONNX Runtime", "INT8", "/pooling", "pooling", "15.00", "37.5"]


@pytest.mark.parametrize("name", ["tabulate_quantization", "tabulate_operator_time"])
def test_an_engine_whose_tool_failed_has_no_rows(name, tmp_path):
    make(name, tmp_path)
    empty = tmp_path / "empty.csv"
    empty.touch()
    program, [table] = importlib.import_module(name), OPTIONS[name][1:]
    inputs = ["--benchmarks", str(tmp_path / "benchmarks.csv"), f"--{table}", str(empty)]
    program.main([*inputs, "--out", str(tmp_path / "none.html")])
    assert len(read_rows(tmp_path / "none.html")) == 1
    program.main([*inputs, str(tmp_path / f"{table}.csv"), "--out", str(tmp_path / "some.html")])
    assert read_rows(tmp_path / "some.html") == read_rows(tmp_path / "page.html")


def test_time_is_told_by_stage(tmp_path):
    def job(name, rule, begin, end):
        path = tmp_path / "metadata" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"rule": rule, "starttime": begin, "endtime": end, "input": []}))

    # Two trainings side by side, one with two files, a wait, two benchmarks, and pages.
    job("a", "train", 0.0, 60.0)
    job("b", "train", 0.0, 60.0)
    job("c", "train", 30.0, 90.0)
    job("d", "benchmark", 1000.0, 1200.0)
    job("e", "benchmark", 1200.0, 1300.0)
    job("f", "plot_pareto", 1300.0, 1305.0)
    job("g", "tabulate_claims", 1305.0, 1310.0)
    job("h", "tabulate_time", 1310.0, None)
    out = make("tabulate_time", tmp_path)
    turns = 1.5 * sum(bool(row["layout"]) for row in benchmark_rows())
    share = f"{100 * turns / 400:.0f}"
    assert read_rows(out)[1:] == [
        ["train", "2", "1:30", "22", "2:00", "1:00"],
        ["benchmark", "2", "5:00", "75", "5:00", "3:20"],
        ["of which taking turns", "", f"{round(turns) // 60}:{round(turns) % 60:02d}", share, "", ""],
        ["tables and figures", "2", "0:10", "2", "0:10", "0:05"],
    ]
    assert "Jobs ran for 6:40 in all" in out.read_text()


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON"])
def test_records_that_are_not_snakemakes_are_refused(tmp_path, content):
    tabulate_time = importlib.import_module("tabulate_time")
    with pytest.raises(InputError, match="expected Snakemake's records of finished jobs"):
        tabulate_time.read_jobs(tmp_path)
    (tmp_path / "record").write_text(content)
    with pytest.raises(InputError, match=r"record: expected"):
        tabulate_time.read_jobs(tmp_path)


def test_claims_page_has_every_claim(tmp_path):
    rows = read_rows(make("tabulate_claims", tmp_path))
    assert [row[0] for row in rows[1:]] == [claim.statement for claim in check_claims.CLAIMS]


def test_summary_is_clean_text_with_the_tables_numbers(tmp_path):
    text = make("summarize_study", tmp_path).read_text(encoding="utf-8")
    html = publish_parts(text, writer="html", settings_overrides={"report_level": 1, "halt_level": 2})["body"]
    assert "Test CPU, 2 cores [abc]" in html
    assert "Speech Commands v0.02, class set commands, 4,890 test clips" in html
    assert "dense in OpenVINO INT8 (95.0 [94.4, 95.6] % right), 30.0k [30.0k, 30.0k] words/s" in html
    assert "32.0× [32.0×, 32.0×] ONNX Runtime" in html
    assert "no kernel for &lt;this&gt; &amp; that" in html
    # Of 9 engines and precisions, OpenVINO's three, each kind of doubt once.
    [held_back] = re.findall(r"(\d+) of (\d+) rows: the clock fell from 3000 to 2100 MHz", html)
    assert int(held_back[0]) * 9 == int(held_back[1]) * 3


def test_summary_of_a_study_without_measurements(tmp_path):
    networks = [row for row in network_rows() if row["network"] == "dense"]
    text = make("summarize_study", tmp_path, benchmarks=[], networks=networks).read_text(encoding="utf-8")
    assert "0 cases" in text


def test_a_verdict_that_is_none_is_refused(tmp_path):
    make("summarize_study", tmp_path)
    path = tmp_path / "claims.csv"
    path.write_text(path.read_text().replace("refuted", "perhaps"))
    summarize_study = importlib.import_module("summarize_study")
    arguments = [part for key in OPTIONS["summarize_study"] for part in (f"--{key}", str(tmp_path / f"{key}.csv"))]
    with pytest.raises(InputError, match="'perhaps' is no verdict"):
        summarize_study.main([*arguments, "--out", str(tmp_path / "again.rst")])
    assert not (tmp_path / "again.rst").exists()


def test_table_escapes_what_it_is_given(tmp_path):
    path = tmp_path / "table.html"
    write_table(path, "A < B", "note & more", ["x"], [["<b>1</b>"], [Cell("2", "good")]], ["x"])
    assert read_rows(path) == [["x"], ["<b>1</b>"], ["2"]]
    text = path.read_text(encoding="utf-8")
    assert "<b>" not in text
    assert 'class="number good"' in text


def test_a_column_without_a_value_is_left_out(tmp_path):
    path = tmp_path / "table.html"
    rows = [["a", Cell("–", "quiet"), "–", ""], ["b", "–", "1", ""]]
    write_table(path, "Title", "note", ["name", "never", "once", "empty"], rows, [])
    assert read_rows(path) == [["name", "once"], ["a", "–"], ["b", "1"]]
    write_table(path, "Title", "note", ["name", "never"], [], [])
    assert read_rows(path) == [["name", "never"]]


def summary(folder: Path, **tables) -> str:
    """The text that opens the report, on one line, without the marks of bold text."""
    return " ".join(make("summarize_study", folder, **tables).read_text().replace("**", "").split())


def as_accurate(*lossy: str) -> list[dict]:
    """Accuracies of all artefacts: the dense network's, and ten points less for some networks."""
    return [row | {"accuracy": 0.97 + 0.001 * row["seed"] - 0.1 * (row["network"] in lossy)} for row in accuracy_rows()]


def test_the_first_page_answers_and_recommends(tmp_path):
    text = summary(tmp_path, accuracies=as_accurate())
    # dual in dualsparse, 320k, beside OpenVINO INT8, 30k.
    assert "Does sparsity pay on this processor? Yes. For single words, one core (10.7× [10.7×, 10.7×]), single" in text
    assert "the test clips tell a loss from about 0.7 points on" in text
    assert "For batches of 64, whole processor: take dual in dualsparse INT8 (97.2 [96.7, 97.6] % right), 320k" in text
    # DeepSparse has one precision; what is said of one engine is said of its fastest dense precision.
    assert "of 5 engines, dualsparse gains most, 16.0×" in text


def test_an_answer_that_depends_on_the_use_says_so(tmp_path):
    rows = [
        row for row in benchmark_rows() if row["batch_size"] == 64 or row["engine"] not in ("dualsparse", "deepsparse")
    ]
    text = summary(tmp_path, benchmarks=rows, accuracies=as_accurate())
    assert "Does sparsity pay on this processor? Yes in 2 of 4 uses. Yes: batches of 64, one core (10.7×" in text
    # The other engines run the sparse networks exactly as fast as the dense one.
    assert "annot be told: single words, one core (1.00× [1.00×, 1.00×])" in text


def test_a_sparse_network_that_loses_accuracy_is_no_answer(tmp_path):
    text = summary(tmp_path, accuracies=as_accurate("pruned", "block", "dual"))
    assert "Does sparsity pay on this processor? No. For single words, one core (no sparse network keeps" in text
    assert "take dense in OpenVINO INT8" in text
    assert "faster, less accurate or of unknown accuracy: dual in dualsparse INT8 (87.2 [86.2, 88.1] % right)" in text


def test_a_gain_within_the_noise_is_no_yes(tmp_path):
    """DeepSparse's pruned network is 40k; OpenVINO's dense one becomes 39k, with rounds that differ by more."""
    rows = [row for row in benchmark_rows() if row["engine"] != "dualsparse"]
    for row in rows:
        if row["engine"] == "openvino" and row["precision"] == "int8" and row["ratio"]:
            row["ratio"] *= 1.3 * {1: 0.9, 2: 1.0, 3: 1.1}[row["round"]]
    text = summary(tmp_path, benchmarks=rows, accuracies=as_accurate())
    assert "Does sparsity pay on this processor? Cannot be told. For single words, one core" in text
    assert "as fast, as far as can be told" in text


def test_one_engine_is_judged_by_its_fastest_dense_precision(tmp_path):
    """Its INT8 is slower than its FP32, so the gain over INT8 alone flatters it."""
    rows = [row for row in benchmark_rows() if row["engine"] in ("onnxruntime", "dualsparse")]
    half = [row | {"precision": "fp32", "ratio": 2 * row["ratio"]} for row in rows if row["engine"] == "dualsparse"]
    half = [row for row in half if row["network"] == "dense"]
    text = summary(tmp_path, benchmarks=rows + half, accuracies=as_accurate())
    assert "dualsparse gains most, 8.00× [8.00×, 8.00×], dual in dualsparse INT8" in text
    assert "over its slower dense INT8 it is 16.0× [16.0×, 16.0×]" in text


@pytest.mark.parametrize(("epochs", "short"), [(6, True), (60, False)])
def test_what_accuracies_cannot_say_stands_beside_them(tmp_path, epochs, short):
    networks = [row | {"epochs": epochs, "dataset": "synthetic_speech"} for row in network_rows()]
    text = summary(tmp_path, networks=networks)
    assert "This is synthetic speech" in text
    assert ("Training was short (6 epochs)" in text) == short


def test_a_load_that_is_not_known_is_no_good_sign(tmp_path):
    text = summary(tmp_path, benchmarks=[row | {"other_load": ""} for row in benchmark_rows()])
    assert "How far to trust it: poor. Because: it is not known how busy others were" in text


@pytest.mark.parametrize(("load", "level"), [(0.01, "fair"), (0.3, "fair"), (0.8, "poor")])
def test_the_quality_is_that_of_the_worst_sign(tmp_path, load, level):
    """The constructed machine drifts by 1.38; `fair` at best."""
    rows = [row | {"other_load": load} for row in benchmark_rows()]
    assert f"How far to trust it: {level}. Because: " in summary(tmp_path, benchmarks=rows)
    steady = [row | {"doubts": "", "reference_words_per_s": 1000 if row["ratio"] else ""} for row in rows]
    text = summary(tmp_path, benchmarks=steady)
    assert f"How far to trust it: {'good' if load < 0.1 else level}. " in text
    assert f"others kept {load:.2f} CPUs busy" in text

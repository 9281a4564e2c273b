"""Measuring a case from outside, with an engine that behaves as each test tells it."""

import errno
import hashlib
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import benchmark
import evaluate
from benchmark import Measure, reference_layout
from sparsemark import engines
from sparsemark.cpu import cpu_model
from sparsemark.files import InputError
from sparsemark.measuring import reference
from sparsemark.measuring.case import model_sha256
from sparsemark.measuring.engine_process import Ended, Group
from sparsemark.measuring.topology import CoreClass, Cpu, plan_layouts

FAKE_ENGINES = Path(__file__).parent / "fake_engines"
MEASURE = {"warmup_s": 0.01, "warmup_samples": 1, "rounds": 2, "turn_s": 0.03, "budget_s": 0.5, "timeout_s": 60}


@pytest.fixture
def case(tmp_path, monkeypatch):
    """Call a program on the fake engine with a behaviour; return its result. Its reference is the fake engine, too."""
    monkeypatch.setenv("SPARSEMARK_ENGINES", str(FAKE_ENGINES))
    monkeypatch.setattr("sparsemark.engines.__path__", [*engines.__path__, str(FAKE_ENGINES)])
    monkeypatch.setattr(reference, "ENGINE", "fake")
    x = np.random.default_rng(0).standard_normal((70, 1, 32, 32), np.float32)
    logits = x.reshape(70, -1)[:, :12]
    np.savez(tmp_path / "test.npz", x=x, y=logits.argmax(1))
    np.save(tmp_path / "logits.npy", logits)
    model = tmp_path / "model"
    for name in ("reference", "base"):
        (tmp_path / name).write_text("slow")

    def run(behaviour, program=benchmark, **changes):
        model.write_text(behaviour)
        options = {
            "engine": "fake",
            "python": sys.executable,
            "model": model,
            "features": tmp_path / "test.npz",
            "logits": tmp_path / "logits.npy",
            "network": "dense",
            "dataset": "synthetic_speech-commands",
            "seed": 1,
            "precision": "fp32",
            "batch_size": 4,
            "cache": tmp_path / "cache",
            "out": tmp_path / "result.json",
        }
        if program is benchmark:
            options |= {"cores": 1, "measure": json.dumps(MEASURE | changes.pop("measure", {}))}
            options |= {"reference_python": sys.executable, "reference_logits": tmp_path / "logits.npy"}
            options |= {"reference_model": tmp_path / "reference", "base_model": tmp_path / "base"}
        options |= changes
        arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items() if value is not None]
        program.main(arguments)
        return json.loads((tmp_path / "result.json").read_text())

    return run


def test_a_measured_case(case):
    result = case("slow")
    assert result["case"]["dataset"] == "synthetic_speech" and result["case"]["class_set"] == "commands"
    assert result["case"]["model_sha256"] == hashlib.sha256(b"slow").hexdigest()
    assert result["started_at"] < result["ended_at"]
    assert [(row["round"], row["layout"], row["status"]) for row in result["rows"]] == [
        (1, "1x1", "ok"),
        (2, "1x1", "ok"),
    ]
    for row, raw in zip(result["rows"], result["raw_times"], strict=True):
        assert row["execution"]["details"]["affinity"] == str(row["cpus"][0][0])
        assert row["execution"]["details"]["OMP_NUM_THREADS"] == "1"
        assert row["parity"] == {"relative_error": 0.0, "agreement": 1.0}
        assert not row["is_reference"] and "base_ratio" not in row
        assert raw["round"] == row["round"] and len(raw["turns"]) == row["turns"] >= 1
        times = [time for turn in raw["turns"] for [instance] in [turn] for time in instance["times_ns"]]
        assert all(isinstance(duration, int) for duration in times)
        assert len(times) == row["samples"] and sum(times) / 1e9 == pytest.approx(row["window_s"])
        assert row["latency_ms_p50"] == pytest.approx(statistics.median_low(times) / 1e6)
        assert row["latency_ms_p50"] >= 10


def test_the_ratio_is_the_median_over_pairs_of_turns(case):
    # The fake sleeps 10 ms a call, or 30: a third of the reference's speed, but for what the machine does meanwhile.
    result = case("slower")
    for row, raw in zip(result["rows"], result["raw_times"], strict=True):
        own, beside = raw["words_per_s"]["case"], raw["words_per_s"]["reference"]
        logs = [math.log(a / b) for a, b in zip(own, beside, strict=True)]
        assert row["ratio"] == pytest.approx(math.exp(statistics.median(logs)))
        assert row["measured_words_per_s"] == statistics.median(own)
        assert row["reference_words_per_s"] == statistics.median(beside)
        assert row["ratio"] < 0.9
        [first, *_] = raw["turns"]
        assert own[0] == pytest.approx(4e9 * len(first[0]["times_ns"]) / sum(first[0]["times_ns"]))


def test_the_reference_meets_itself_and_the_base(case, tmp_path):
    result = case("slow", model=tmp_path / "reference", cores="all")
    own = [row for row in result["rows"] if row["is_reference"]]
    assert [row["round"] for row in own] == [1, 2]
    assert {row["threads"] for row in own} == {1}
    # Two instances that sleep answer twice as many words as the base's one, at a sixteenth of its batch size.
    instances = own[0]["instances"]
    assert all(0.3 < row["base_ratio"] / (instances * 4 / 64) < 3 for row in own)
    assert set(result["raw_times"][0]["words_per_s"]) == {"case", "reference", "base"}


def test_a_reference_that_fails_is_named(case, tmp_path):
    (tmp_path / "reference").write_text("exit")
    [row] = case("slow")["rows"]
    assert (row["status"], row["reason"][:40]) == ("failed", "the reference: exit status 3 during load")


def test_the_whole_processor_tries_every_layout_and_keeps_the_fastest(case):
    result = case("slow", cores="all", measure={"rounds": 3})
    cores = result["machine"]["physical_cores"]
    first = {row["layout"]: row for row in result["rows"] if row["round"] == 1}
    assert f"1x{cores}" in first and f"{cores}x1" in first
    assert all(row["status"] == "ok" for row in result["rows"])
    best = max(first, key=lambda layout: first[layout]["ratio"])
    assert [row["layout"] for row in result["rows"] if row["round"] > 1] == [best, best]
    assert all(len(turn) == first[raw["layout"]]["instances"] for raw in result["raw_times"] for turn in raw["turns"])


def test_the_reference_has_a_thread_on_each_core():
    hyper = [Cpu(0, 0, core, number) for core in range(4) for number in (core, core + 4)]
    assert reference_layout(plan_layouts(hyper, "all")).cpu_sets == ((0,), (1,), (2,), (3,))
    assert reference_layout(plan_layouts(hyper, "1")).cpu_sets == ((3,),)
    # One fast core alone is a layout of this hybrid, but not all of it.
    slow = CoreClass(1, "slow")
    hybrid = [Cpu(0, 0, 0, 0, CoreClass(0, "fast")), *(Cpu(0, 0, number, number, slow) for number in (1, 2, 3))]
    assert reference_layout(plan_layouts(hybrid, "all")).cpu_sets == ((0,), (1,), (2,), (3,))


@pytest.mark.parametrize(
    ("behaviour", "status", "reason"),
    [
        ("unsupported", "unsupported", "only on Tuesdays"),
        ("error", "failed", "ValueError: this model is odd"),
        ("crash", "failed", "SIGSEGV during loading the model"),
        ("crash later", "failed", r"SIGILL \(an instruction that this CPU does not have\) during the first inference"),
        ("exit", "failed", "exit status 3 during loading the model: fatal: no licence"),
        ("killed", "out_of_memory", "SIGKILL during loading the model"),
        ("abort", "out_of_memory", "SIGABRT during loading the model: .*bad_alloc"),
        ("greedy", "out_of_memory", "MemoryError"),
        ("hang", "timeout", "not done within 2 s; stopped during loading the model"),
        ("wrong", "failed", "parity with the FP32 reference: relative error"),
        ("double", "failed", "returned float64"),
        ("not finite", "failed", "not finite"),
        ("scribble", "failed", "changed its input"),
    ],
)
def test_a_case_that_goes_wrong_is_a_row_without_speed(case, behaviour, status, reason):
    limits = {"timeout_s": 2} if behaviour == "hang" else {"memory_limit_gib": 1}
    result = case(behaviour, measure=limits)
    [row] = result["rows"]
    assert row["status"] == status
    assert re.search(reason, row["reason"]), row["reason"]
    assert not {"ratio", "latency_ms_p50"} & set(row)


def test_what_an_engine_prints_does_no_harm(case):
    assert [row["status"] for row in case("noisy")["rows"]] == ["ok", "ok"]


def test_a_hanging_engine_is_killed_with_its_children(case, tmp_path):
    case("hang", measure={"timeout_s": 2})
    child = int((tmp_path / "model.child").read_text())
    stat = Path(f"/proc/{child}/stat")
    end = time.monotonic() + 10  # on a busy machine a process that is killed may wait for its end
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, f"the engine's child {child} still runs"
        time.sleep(0.02)


def test_a_worker_does_not_outlive_its_parent(case, tmp_path):
    model = tmp_path / "model"
    driver = os.fork()
    if driver == 0:
        case("hang")
        os._exit(0)
    child_file = tmp_path / "model.child"
    while not child_file.exists() or not child_file.read_text():
        time.sleep(0.02)
    worker = int(Path(f"/proc/{child_file.read_text()}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    end = time.monotonic() + 10
    while Path(f"/proc/{worker}/cmdline").exists() and Path(f"/proc/{worker}/cmdline").read_bytes():
        assert time.monotonic() < end, f"{model}: worker {worker} still runs"
        time.sleep(0.02)
    os.kill(int(child_file.read_text()), signal.SIGKILL)


def test_no_environment_or_no_model_is_a_row_with_the_reason(case, tmp_path):
    status = tmp_path / "deployed.json"
    status.write_text(json.dumps({"status": "unsupported", "reason": "no wheel"}))
    [row] = case("good", environment_status=status)["rows"]
    assert (row["status"], row["reason"]) == ("unsupported", "no wheel")
    [row] = case("good", model=None)["rows"]
    assert row["status"] == "unsupported" and "comes from an ONNX file" in row["reason"]
    [row] = case("good", model=None, precision="bf16")["rows"]
    assert row["status"] == "unsupported" and "Fake has no bf16: there is no form" in row["reason"]
    [row] = case("good", model=None, precision="int8")["rows"]
    assert (row["status"], row["reason"]) == ("unsupported", "Fake has no int8: it is a fake")
    (tmp_path / "model.json").write_text(json.dumps({"status": "timeout", "reason": "tuning took too long"}))
    [row] = case("good")["rows"]
    assert (row["status"], row["reason"]) == ("timeout", "tuning took too long")


@pytest.mark.parametrize("changed", ["cpu", "family_model_stepping", "flags", None])
def test_a_model_compiled_for_another_cpu_does_not_run(case, tmp_path, monkeypatch, changed):
    monkeypatch.setattr(engines.engine_class("fake"), "compiled_models", True)
    record = {"status": "ok", "reason": "", "cpu": cpu_model()}
    (tmp_path / "model.json").write_text(json.dumps(record))
    assert case("good")["rows"][0]["status"] == "ok"
    record["cpu"] = {**cpu_model(), changed: "another"} if changed else {}
    (tmp_path / "model.json").write_text(json.dumps(record))
    for program in (benchmark, evaluate):
        result = case("crash", program)
        row = result["rows"][0] if program is benchmark else result
        assert row["status"] == "unsupported"
        assert "was compiled and tuned for" in row["reason"] and f"delete {tmp_path}" in row["reason"]
    monkeypatch.setattr(engines.engine_class("fake"), "compiled_models", False)
    assert case("good")["rows"][0]["status"] == "ok"


def test_all_is_at_most_what_is_allowed(case):
    result = case("slow", cores="all", max_cores=1)
    assert {row["layout"] for row in result["rows"]} == {"1x1"}


def test_a_machine_that_is_held_back_is_a_doubt_in_the_row(case, monkeypatch):
    monkeypatch.setattr("sparsemark.measuring.machine.cpu_quota", lambda: 0.25)
    for cores in ("1", "all"):
        result = case("slow", cores=cores)
        assert result["machine"]["cpu_quota"] == 0.25
        for row in result["rows"]:
            assert row["status"] == "ok" and "0.25 CPUs, less than one core" in row["doubts"]


@pytest.mark.parametrize(("error", "warned"), [(errno.ENOLCK, True), (errno.ENOTSUP, True), (None, False)])
def test_a_file_system_without_locks_is_a_warning(monkeypatch, capsys, error, warned):
    def flock(handle, operation):
        if error:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", flock)
    with benchmark.alone_on_the_machine():
        pass
    printed = capsys.readouterr().err
    assert ("no locks" in printed) == warned and "another benchmark" not in printed


def test_benchmarks_wait_for_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = (
        "import sys, benchmark\nwith benchmark.alone_on_the_machine():\n    print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(benchmark.__file__).parent), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout.readline() == b"mine\n"
        threading.Timer(0.5, other.stdin.close).start()
        with benchmark.alone_on_the_machine():
            assert other.wait(10) == 0
    assert "waiting for another benchmark" in capsys.readouterr().err


def test_evaluation_counts_the_whole_test_set(case):
    result = case("good", evaluate)
    assert (result["status"], result["accuracy"], result["test_clips"]) == ("ok", 1.0, 70)
    result = case("wrong", evaluate)
    x = np.random.default_rng(0).standard_normal((70, 1, 32, 32), np.float32).reshape(70, -1)[:, :12]
    assert result["accuracy"] == pytest.approx(np.mean(x[:, ::-1].argmax(1) == x.argmax(1)))
    assert case("crash", evaluate)["status"] == "failed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "none.npz"}, r"none\.npz: expected a file"),
        ({"model": "none.onnx"}, r"none\.onnx: expected a model file"),
        ({"environment_status": "none.json"}, r"none\.json: expected a readable JSON"),
        ({"measure": {"min_time": 3}}, r"--measure: unknown key 'min_time'"),
        ({"measure": {"rounds": 0}}, r"--measure: rounds: expected a number of at least 1, got 0"),
        ({"measure": {"rounds": 1.5}}, r"--measure: rounds: expected a number of at least 1, got 1.5"),
        ({"measure": {"timeout_s": "long"}}, r"--measure: timeout_s: expected a number"),
    ],
)
def test_wrong_input_is_one_sentence(case, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        case("good", **changes)
    assert not (tmp_path / "result.json").exists()


def test_a_measure_needs_an_object():
    for text in ("[1]", "{"):
        with pytest.raises(InputError, match="expected a JSON object"):
            Measure.from_json(text)
    assert Measure.from_json('{"rounds": 5, "turn_s": 1}') == Measure(rounds=5, turn_s=1)


def test_a_python_that_is_missing_is_a_failed_case(tmp_path):
    with pytest.raises(Ended, match="cannot be started") as ended:
        Group(tmp_path / "python", {"threads": 1}, [None], timeout_s=5, cache=tmp_path)
    assert ended.value.outcome.status == "failed"


def test_a_model_folder_has_a_digest_of_its_content(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/model.param").write_text("1")
    (tmp_path / "a/model.bin").write_text("2")
    before = model_sha256(tmp_path / "a")
    (tmp_path / "a/model.bin").write_text("3")
    assert len(before) == 64 and model_sha256(tmp_path / "a") != before

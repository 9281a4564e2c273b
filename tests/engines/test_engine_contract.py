"""The contract that every engine keeps, tested through the worker in the engine's own environment.

Adapters are found by themselves. Models are made for the test: the network in the environment `train`, and quantised
or tuned forms by the rule's own script, as an adapter's `models` name it.
"""

import json
import time
from functools import cache
from pathlib import Path

import pytest

from attempt import attempt
from environments import interpreter, run_script
from sparsemark import study
from sparsemark.cpu import cpu_key, cpu_model
from sparsemark.engines import engine_class, engine_names
from sparsemark.measuring.case import PRECISIONS
from sparsemark.measuring.engine_process import Ended, Group
from sparsemark.measuring.outcome import Outcome
from sparsemark.measuring.topology import fastest_class, physical_cores, read_cpus

TESTS = Path(__file__).parent
BATCH_SIZES = (1, 4)
#: Length of a turn: long enough for CPU time and time passed to be compared.
TURN_S = 0.2
TIMEOUT_S = 600
#: Arguments that make an engine's own preparation of a model quick.
QUICK = {"tune_tvm": ["--trials", "8"], "convert_litert": [], "convert_mnn": []}

ENGINE_PRECISIONS = [(name, precision) for name in engine_names() for precision in engine_class(name).models]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A function that returns the model of an engine, precision, network and batch size, and the folder of the rest."""
    folder = tmp_path_factory.mktemp("contract")
    run_script("train", TESTS / "contract_models.py", folder, "--batch-sizes", *BATCH_SIZES)

    @cache
    def prepared(rule: str, suffix: str, environment: str, network: str, batch_size: int) -> Path:
        path = folder / rule / f"{network}-batch{batch_size}{suffix}"
        path.parent.mkdir(exist_ok=True)
        source, calibration = folder / f"{network}-batch{batch_size}.onnx", folder / "calibration.npz"
        arguments = ["--model", source, *QUICK.get(rule, ["--calibration", calibration]), "--out", path]
        if rule == "quantize_pytorch":
            # From the checkpoint, for which the batch size is still to be chosen.
            arguments[1:2] = [folder / f"{network}.pt", "--batch-size", batch_size]
        command = [interpreter(environment), study.SCRIPTS / f"{rule}.py", *arguments]
        outcome = attempt(list(map(str, command)), path, TIMEOUT_S)
        status = {"status": outcome.status, "reason": outcome.reason, "cpu": cpu_model()}
        path.with_name(f"{path.name}.json").write_text(json.dumps(status))
        return path

    def model(engine: str, precision: str, network: str, batch_size: int) -> Path:
        template = Path(engine_class(engine).models[precision])
        rule = template.parts[0]
        if rule == "{trained}":
            return folder / f"{network}.pt"
        if rule == "{exported}":
            return folder / f"{network}-batch{batch_size}.onnx"
        return prepared(rule, template.suffix, engine_class(engine).environment, network, batch_size)

    model.folder = folder
    return model


def run(models, engine, precision, *, network="dense", batch_size=4, threads=1, model=None, cache=None):
    """One worker and one turn; returns its outcome, or why the engine's tool could make no model, and its result.

    Several threads have the last cores. A single one is not pinned: what it is told has to keep it to one.
    """
    model = model or models(engine, precision, network, batch_size)
    status = model.with_name(f"{model.name}.json")
    if status.exists() and (record := json.loads(status.read_text()))["status"] != "ok":
        return Outcome(record["status"], record["reason"]), {}
    python = interpreter(engine_class(engine).environment)
    cpus = None if threads == 1 else [core[0] for core in physical_cores(fastest_class(read_cpus()))][-threads:]
    request = {
        "mode": "benchmark",
        "engine": engine,
        "model": str(model),
        "features": str(models.folder / "test.npz"),
        "logits": str(models.folder / f"{network}.npy"),
        "precision": precision,
        "batch_size": batch_size,
        "threads": threads,
    }
    try:
        with Group(python, request, [cpus], timeout_s=TIMEOUT_S, cache=cache or models.folder / "cache") as group:
            group.answers()
            begin = time.monotonic()
            [turn] = group.ask(turn=[0, time.monotonic_ns() + int(TURN_S * 1e9)])
            wall_s = time.monotonic() - begin
            [result] = group.finish()
    except Ended as ended:
        return ended.outcome, {}
    return Outcome("ok"), {**turn, **result, "wall_s": wall_s}


@pytest.mark.parametrize("engine", engine_names())
def test_an_adapter_describes_itself_without_its_engine(engine):
    adapter = engine_class(engine)
    assert adapter.title and isinstance(adapter.title, str)
    assert (study.ROOT / "envs" / f"{adapter.environment}.yaml").exists()
    assert adapter.models and set(adapter.models) <= set(PRECISIONS)
    for template in adapter.models.values():
        path = template.format(trained="train", exported="export_onnx", data="d", network="n", seed=1, batch_size=4)
        rule = path.split("/")[0]
        assert (study.SCRIPTS / f"{rule}.py").exists(), f"{template}: no script {rule}.py makes it"


@pytest.mark.parametrize(("engine", "precision"), ENGINE_PRECISIONS)
def test_an_engine_computes_the_network_and_tells_what_ran(models, engine, precision):
    outcome, result = run(models, engine, precision)
    if precision != "fp32" and outcome.status == "unsupported":
        # A CPU need not have BF16, nor an engine INT8 on it; the reason is then a row of the study.
        assert outcome.reason
        return
    assert outcome.status == "ok", outcome.reason
    execution = result["execution"]
    assert execution["version"]
    assert execution["threads"] == 1
    # On a busy machine CPU time can only be less. Threads are not counted: JAX hands the work from one to another.
    assert result["cpu_s"] <= 1.2 * result["wall_s"] + 0.02, "it computes on more than one core at a time"
    assert precision in execution["precision"].split("+")
    assert execution["own_operator_share"] is None or 0 <= execution["own_operator_share"] <= 1
    assert all(isinstance(value, str) for value in execution["details"].values())
    assert min(result["times_ns"]) > 0
    assert result["load_s"] >= 0 and result["first_inference_ms"] > 0


@pytest.mark.parametrize("engine", engine_names())
def test_an_engine_takes_single_words_and_uses_the_threads_it_is_given(models, engine):
    threads = min(2, len(physical_cores(fastest_class(read_cpus()))))
    precision = next(iter(engine_class(engine).models))
    outcome, result = run(models, engine, precision, batch_size=1, threads=threads)
    assert outcome.status == "ok", outcome.reason
    # An engine that shares out whole samples has one thread for a single word, and tells so.
    assert result["execution"]["threads"] in (1, threads)
    assert result["busy_threads"] >= 1


@pytest.mark.parametrize("network", ["winners", "gated"])
@pytest.mark.parametrize(("engine", "precision"), ENGINE_PRECISIONS)
def test_an_engine_runs_sparse_activations_or_says_why_not(models, engine, precision, network):
    if (precision, network) == ("bf16", "winners"):
        pytest.skip("in BF16 units change places among the winners, and how many depends on the CPU")
    outcome, _ = run(models, engine, precision, network=network)
    assert outcome.status in ("ok", "unsupported"), outcome.reason
    assert (outcome.status == "ok") != bool(outcome.reason)


@pytest.mark.parametrize("engine", engine_names())
def test_an_engine_runs_sparse_weights(models, engine):
    precision = next(iter(engine_class(engine).models))
    outcome, _ = run(models, engine, precision, network="blocks")
    assert outcome.status == "ok", outcome.reason


def test_what_an_engine_compiles_is_kept_for_this_cpu_alone(models):
    """No file of a cache lies where another CPU would look for it."""
    for engine in ("pytorch_compile", "dualsparse"):
        precision = next(iter(engine_class(engine).models))
        assert run(models, engine, precision)[0].status == "ok"
        assert {path.name for path in (models.folder / "cache" / engine).iterdir()} == {cpu_key()}


def test_torch_compile_without_python_s_headers_is_unsupported(models, monkeypatch, tmp_path):
    """The real compiler, but it is not told where Python's headers are."""
    compiler = tmp_path / "g++"
    compiler.write_text(
        "#!/bin/sh\n"
        'for word; do shift; case "$word" in -I*/include/python3*) ;; *) set -- "$@" "$word" ;; esac; done\n'
        'exec /usr/bin/env g++ "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    outcome, _ = run(models, "pytorch_compile", "fp32", cache=tmp_path / "cache")
    assert outcome.status == "unsupported", outcome.reason
    assert "needs the header Python.h (Python's own: python3-dev" in outcome.reason


def test_tvm_skips_blocks_of_zeros(models):
    assert b"sparse_linear" in models("tvm", "fp32", "blocks", 4).read_bytes()


@pytest.mark.parametrize("network", ["dense", "blocks"])
def test_tvm_lays_weights_out_before_any_run(models, network):
    library = models("tvm", "fp32", network, 4).read_bytes()
    assert b"_weight_prepack" not in library, "a function that rearranges weights is part of the library"


@pytest.mark.parametrize("engine", engine_names())
def test_a_file_that_is_no_model_is_a_row_with_a_reason(models, engine, tmp_path):
    precision = next(iter(engine_class(engine).models))
    model = tmp_path / f"model{Path(engine_class(engine).models[precision]).suffix}"
    model.write_bytes(b"not a model" * 100)
    outcome, _ = run(models, engine, precision, model=model)
    assert outcome.status in ("failed", "unsupported")
    assert outcome.reason and "\n" not in outcome.reason

"""A preparation that fails, crashes or hangs becomes a status with a reason; one that succeeds leaves its model."""

import json
import sys

import pytest

import attempt
from sparsemark.cpu import cpu_model


def run(tmp_path, code, *options):
    model, status = tmp_path / "model.onnx", tmp_path / "model.onnx.json"
    command = [sys.executable, "-c", code, str(model)]
    attempt.main(["--model", str(model), "--status", str(status), *options, "--", *command])
    return model, json.loads(status.read_text())


def test_a_success_keeps_the_model(tmp_path):
    model, status = run(tmp_path, "import sys; open(sys.argv[1], 'w').write('model')")
    assert model.read_text() == "model"
    assert status == {"status": "ok", "reason": "", "cpu": cpu_model()}


@pytest.mark.parametrize(
    ("code", "ending", "reason"),
    [
        ("raise ValueError('no such operator')", "failed", "ValueError: no such operator"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "out_of_memory", "SIGKILL"),
        ("pass", "failed", "exit status 0"),
        ("import sys; open(sys.argv[1], 'w').write('half'); raise OSError('disk full')", "failed", "disk full"),
    ],
)
def test_a_failure_leaves_an_empty_model_and_its_reason(tmp_path, code, ending, reason):
    model, status = run(tmp_path, code)
    assert model.read_bytes() == b""
    assert status["status"] == ending
    assert reason in status["reason"]


def test_a_tool_that_refuses_the_network_makes_it_unsupported(tmp_path):
    model, status = run(tmp_path, "raise SystemExit('error: net.onnx: operator TopK is unknown')")
    assert model.read_bytes() == b""
    assert (status["status"], status["reason"]) == ("unsupported", "net.onnx: operator TopK is unknown")


def test_a_hanging_command_is_ended_with_its_children(tmp_path):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    _, status = run(tmp_path, code, "--timeout-s", "1")
    assert status["status"] == "timeout"


def test_an_environment_that_could_not_be_built_is_the_reason(tmp_path):
    environment = tmp_path / "deployed.json"
    environment.write_text(json.dumps({"status": "unsupported", "reason": "needs Python 3.9"}))
    model, status = run(tmp_path, "raise SystemExit('never run')", "--environment-status", str(environment))
    assert model.read_bytes() == b""
    assert (status["status"], status["reason"]) == ("unsupported", "needs Python 3.9")


def test_a_model_that_could_not_be_made_is_not_worked_on(tmp_path):
    (tmp_path / "input.json").write_text(json.dumps({"status": "unsupported", "reason": "one batch size only"}))
    code = "import sys; open(sys.argv[1], 'w').write('model')"
    model, status = run(tmp_path, code, "--input-status", str(tmp_path / "input.json"))
    assert model.read_bytes() == b""
    assert (status["status"], status["reason"]) == ("unsupported", "one batch size only")

"""The profilers of engines refuse what the benchmark refuses."""

import json

import numpy as np
import pytest

import profile_operators
from sparsemark.cpu import cpu_model
from sparsemark.files import InputError


@pytest.mark.parametrize(
    ("engine", "status", "message"),
    [
        ("tvm", {"cpu": {**cpu_model(), "cpu": "Another"}}, "compiled and tuned for Another"),
        ("tvm", {}, "a CPU that is not told"),
        # ONNX files run everywhere: this one gets as far as the features.
        ("onnxruntime", {"cpu": {**cpu_model(), "cpu": "Another"}}, "expected"),
    ],
)
def test_a_library_of_another_cpu_is_not_loaded(tmp_path, monkeypatch, engine, status, message):
    loaded = []
    monkeypatch.setitem(profile_operators.PROFILERS, engine, lambda *_: loaded.append(engine))
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    model, features = tmp_path / "model.so", tmp_path / "features.npz"
    model.write_bytes(b"a library")
    (tmp_path / "model.so.json").write_text(json.dumps({"status": "ok", "reason": "", **status}))
    np.savez(features, y=np.zeros(3))
    arguments = [f"--engine={engine}", f"--model={model}", f"--features={features}", "--network=n", "--precision=fp32"]
    with pytest.raises(InputError, match=message):
        profile_operators.main([*arguments, "--batch-size=1", f"--out={tmp_path / 'out.csv'}"])
    assert not loaded

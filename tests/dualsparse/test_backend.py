"""A slice of ONNX's own test suite; `onnx_backend.py` runs it in full."""

import pytest
from onnx_backend import Dualsparse, cases, outcome
from onnxruntime.backend.backend import OnnxRuntimeBackend

#: Parts of the names of tests that are about what layers are made of.
LAYERS = ("_conv_", "_gemm_", "_matmul_", "batchnorm", "qlinear", "convinteger", "matmulinteger", "test_Conv", "Linear")
THEIRS = dict(cases(OnnxRuntimeBackend))
OURS = dict(cases(Dualsparse))
CHOSEN = [name for i, name in enumerate(OURS) if i % 20 == 0 or any(part in name for part in LAYERS)]


@pytest.mark.parametrize("name", CHOSEN)
def test_as_right_as_onnxruntimes_own_backend(name: str):
    theirs = outcome(THEIRS[name])
    if theirs == "passed":
        assert outcome(OURS[name]) == "passed"
    elif theirs != "wrong":
        assert outcome(OURS[name]) != "wrong"

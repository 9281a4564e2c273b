"""ONNX's own test suite (`onnx.backend.test`), run by dualsparse and by ONNX Runtime's backend.

In full: `.envs/dualsparse/bin/python tests/dualsparse/onnx_backend.py` tells how many tests each passes, and names
those that only one of them passes. Tests of large models download them, and are left out.
"""

import sys
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx.backend.base
import onnx.backend.test

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dualsparse import DualsparseError, Engine, InferenceSession
from dualsparse.onnx_file import load
from dualsparse.onnx_import import import_onnx
from dualsparse.plan import make_plan


class Prepared(onnx.backend.base.BackendRep):
    """A model as the suite runs it: our layers have all that they can, fast or not, ONNX Runtime the rest."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._file = load(model.SerializeToString(), "test")
        self._session = InferenceSession(model.SerializeToString())

    def run(self, inputs: Any, **options: Any) -> tuple[Any, ...]:
        names = [argument.name for argument in self._session.get_inputs()]
        feeds = dict(zip(names, inputs, strict=False))
        try:
            shapes = {name: value.shape for name, value in feeds.items() if hasattr(value, "shape")}
            plan = make_plan(import_onnx(self._file, shapes=shapes))
        except DualsparseError:
            return tuple(self._session.run(None, feeds))
        engine = Engine(plan)
        return tuple(engine.run_named(feeds).values() if engine.kernels else self._session.run(None, feeds))


class Dualsparse(onnx.backend.base.Backend):
    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **options: Any) -> Prepared:
        return Prepared(model)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


def cases(backend: type) -> Iterator[tuple[str, unittest.TestCase]]:
    """Return the tests of the suite by their names."""
    suite = onnx.backend.test.BackendTest(backend, __name__)
    for group, kind in suite.test_cases.items():
        if "RealModel" not in group:
            for name in unittest.TestLoader().getTestCaseNames(kind):
                if name.endswith("_cpu"):
                    yield name, kind(name)


def outcome(case: unittest.TestCase) -> str:
    """Run a test: "passed", "skipped", "wrong" (another result than expected) or "refused"."""
    result = unittest.TestResult()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.run(result)
    if result.skipped:
        return "skipped"
    return "wrong" if result.failures else "refused" if result.errors else "passed"


def main() -> None:
    import onnxruntime.backend.backend

    found = {}
    for backend in (Dualsparse, onnxruntime.backend.backend.OnnxRuntimeBackend):
        found[backend] = {name: outcome(case) for name, case in cases(backend)}
        print(backend.__name__, dict(Counter(found[backend].values())))
    ours, theirs = found.values()
    for name in ours:
        if ours[name] != theirs[name]:
            print(f"{name}: dualsparse {ours[name]}, ONNX Runtime {theirs[name]}")


if __name__ == "__main__":
    main()

"""Every quantisation tool keeps its promises, each in its own environment (see quantization_checks.py)."""

import ast
from pathlib import Path

import pytest

from environments import interpreter, run_script

SCRIPT = Path(__file__).with_name("quantization_checks.py")


def checks() -> list[tuple[str, str]]:
    """Return (environment, check) of the table CHECKS, read without importing it: it needs packages of the tools."""
    for node in ast.parse(SCRIPT.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "CHECKS":
            table = zip(node.value.keys, node.value.values, strict=True)
            return [(key.value, check.id) for key, values in table for check in values.elts]
    raise AssertionError(f"{SCRIPT}: no CHECKS")


@pytest.mark.parametrize(("environment", "check"), checks())
def test_tool(environment, check):
    interpreter(environment)
    run_script(environment, SCRIPT, check)

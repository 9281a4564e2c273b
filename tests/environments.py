"""Programs run in the environments of engines and tools."""

import json
import subprocess
from functools import cache
from pathlib import Path

import pytest

from sparsemark import study


@cache
def interpreter(environment: str) -> Path:
    """The Python of a deployed environment, the study's or a developer's; skips the test if it cannot be built."""
    for folder in (study.ROOT / study.environment_prefix(environment), study.ROOT / ".envs" / environment):
        record = folder / "deployed.json"
        if record.exists():
            status = json.loads(record.read_text())
            if status["status"] == "ok":
                return folder / "bin" / "python"
            pytest.skip(f"environment {environment}: {status['reason']}")
    pytest.fail(f"environment {environment} is not deployed (make test does it)")


def run_script(environment: str, script: Path, *arguments: object) -> None:
    command = [interpreter(environment), script, *map(str, arguments)]
    result = subprocess.run(
        command, env={"PYTHONPATH": str(study.SCRIPTS), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{script.name}: {result.stdout[-2000:]}{result.stderr[-2000:]}"

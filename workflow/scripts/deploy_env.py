"""Deploy one conda environment file into a virtual environment with pip.

`snakemake --sdm conda` deploys the same files through conda. This program serves machines without conda: it
reads the exact versions from the file's `pip:` section, installs them with the user's own pip settings, and runs
the file's post-deploy script (`NAME.post-deploy.sh`, Snakemake's own convention) as conda would.

It needs nothing but the standard library, because it builds the very first environment, too.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

STATUS_FILE = "deployed.json"


class EnvironmentFileError(ValueError):
    """The environment file is not in the subset of conda's format that both deployers read."""


def read_env_file(path: Path) -> tuple[str, list[str]]:
    """Return the Python version (`3.11`) and the pip requirements of a conda environment file.

    Reads only the subset that `envs/` uses, one dependency a line, because no YAML library is at hand before the
    first environment exists. A test holds it equal to a real YAML reader on every file.

    Raises:
        EnvironmentFileError: no `python=` line, or a pip requirement without an exact version.
    """
    python, requirements, pip_indent = None, [], None
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = re.match(r"^(\s*)- (.+?)\s*(?:#.*)?$", line)
        if not entry:
            continue
        indent, value = len(entry[1]), entry[2]
        if value == "pip:":
            pip_indent = indent
        elif pip_indent is not None and indent > pip_indent:
            if "==" not in value:
                raise EnvironmentFileError(f"{path}: pip: {value!r} has no exact version (expected NAME==VERSION)")
            requirements.append(value)
        elif match := re.fullmatch(r"python=(\d+\.\d+)", value):
            python = match[1]
    if python is None:
        raise EnvironmentFileError(f"{path}: dependencies: expected a line `python=3.x`")
    return python, requirements


def run_logged(command: list[str], env: dict[str, str]) -> None:
    """Run a command with its output on ours; raise RuntimeError with its last telling line if it fails."""
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    lines = []
    for line in process.stdout:
        sys.stdout.write(line)
        lines.append(line.strip())
    if process.wait() != 0:
        errors = [line for line in lines if line.lower().startswith("error")] or [line for line in lines if line]
        raise RuntimeError(errors[-1] if errors else f"{command[0]} ended with status {process.returncode}")


def install(env_file: Path, prefix: Path) -> None:
    """Create the virtual environment `prefix` and install what `env_file` names.

    Raises:
        RuntimeError: the interpreter has another version, pip failed or the post-deploy script failed.
    """
    python_version, requirements = read_env_file(env_file)
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != python_version:
        raise RuntimeError(f"{env_file} needs Python {python_version}, this is Python {running}")
    venv.create(prefix, with_pip=True, clear=True)
    bin_dir = (prefix / "bin").resolve()
    env = {**os.environ, "VIRTUAL_ENV": str(prefix.resolve()), "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    # pip compiles one file after the other; compileall below uses every core.
    pip = [str(bin_dir / "python"), "-m", "pip", "install", "--no-compile", "--progress-bar", "off"]
    if requirements:
        run_logged([*pip, *requirements], env)
    post_deploy = env_file.with_suffix(".post-deploy.sh")
    if post_deploy.exists():
        run_logged(["bash", str(post_deploy)], env)
    # Every benchmark case is a fresh process: without compiled files each would parse its engine's sources anew.
    # Some packages ship templates that are not valid Python, so the status of this step means nothing.
    command = [pip[0], "-m", "compileall", "-qq", "-j", "0", "-x", "/site-packages/.*/tests?/", str(prefix / "lib")]
    subprocess.run(command, env=env, check=False)


def deploy(env_file: Path, prefix: Path, optional: bool) -> dict[str, str]:
    """Deploy `env_file` into `prefix` and return (and write) the status record.

    The record is written last and atomically: a folder without it was interrupted and is built again.
    """
    started = time.monotonic()
    status_path = prefix / STATUS_FILE
    status_path.unlink(missing_ok=True)
    record = {"name": env_file.stem, "python": str(prefix / "bin" / "python"), "status": "ok", "reason": ""}
    try:
        install(env_file, prefix)
    except RuntimeError as error:
        shutil.rmtree(prefix, ignore_errors=True)
        if not optional:
            raise
        prefix.mkdir(parents=True)
        record.update(status="unsupported", reason=f"environment cannot be built: {error}")
    record["seconds"] = round(time.monotonic() - started, 1)
    partial = status_path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(status_path)
    return record


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env_file", type=Path, help="conda environment file, e.g. envs/onnxruntime.yaml")
    parser.add_argument("prefix", type=Path, help="folder of the virtual environment to make")
    parser.add_argument(
        "--optional", action="store_true", help="record an environment that cannot be built instead of failing"
    )
    options = parser.parse_args(arguments)
    try:
        record = deploy(options.env_file, options.prefix, options.optional)
    except (EnvironmentFileError, RuntimeError, OSError) as error:
        print(f"error: {options.env_file}: {error}", file=sys.stderr)
        return 1
    print(f"{record['name']}: {record['status']} {record['reason']} ({record['seconds']} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

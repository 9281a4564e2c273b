"""Deploy one conda environment file into a virtual environment with pip.

`snakemake --sdm conda` deploys the same files through conda. This program serves machines without conda: it
reads the exact versions from the file's `pip:` section, installs them with the user's own pip settings, and runs
the file's post-deploy script (`NAME.post-deploy.sh`, Snakemake's own convention) as conda would. Without a PREFIX it
builds nothing and only records the environment that it runs in itself, which conda made from the file.

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
from pathlib import Path

from sparsemark.files import exclusive_lock, write_json

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


def find_python(version: str) -> str:
    """Return an interpreter of that version: the running one, or one on the PATH that starts (a shim may not).

    Raises:
        RuntimeError: there is none.
    """
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running == version:
        return sys.executable
    for folder in os.get_exec_path():
        python = shutil.which(f"python{version}", path=folder)
        if python and subprocess.run([python, "-c", ""], env=clean_environment(), capture_output=True).returncode == 0:
            return python
    raise RuntimeError(
        f"Python {version} is needed, this is Python {running}, and no python{version} on the PATH can be started"
    )


def clean_environment() -> dict[str, str]:
    """Return the environment variables without those that bring in packages of elsewhere, or send ours there."""
    foreign = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    env = {key: value for key, value in os.environ.items() if key not in foreign}
    # A variable also overrules a `user = true` of pip's own configuration.
    return env | {"PYTHONNOUSERSITE": "1", "PIP_USER": "0"}


def installed_packages(python: str) -> dict[str, str]:
    """Return name and version of every package that an interpreter finds, sorted."""
    program = (
        "import importlib.metadata, json; "
        "print(json.dumps({d.name: d.version for d in importlib.metadata.distributions()}))"
    )
    output = subprocess.run([python, "-c", program], env=clean_environment(), check=True, stdout=subprocess.PIPE).stdout
    return dict(sorted(json.loads(output).items(), key=lambda item: item[0].lower()))


def install(env_file: Path, prefix: Path) -> None:
    """Create the virtual environment `prefix` and install what `env_file` names.

    Raises:
        RuntimeError: there is no interpreter of its version, pip failed or the post-deploy script failed.
    """
    python_version, requirements = read_env_file(env_file)
    env = clean_environment()
    run_logged([find_python(python_version), "-m", "venv", "--clear", str(prefix)], env)
    bin_dir = (prefix / "bin").resolve()
    env.update(VIRTUAL_ENV=str(prefix.resolve()), PATH=f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
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


def is_deployed(prefix: Path) -> bool:
    """Tell whether `prefix` is complete; an environment of another machine may have lost its interpreter."""
    try:
        record = json.loads((prefix / STATUS_FILE).read_text(encoding="utf-8"))
    except OSError:
        return False
    return record["status"] != "ok" or (prefix / "bin" / "python").exists()


def deploy(env_file: Path, prefix: Path, optional: bool) -> None:
    """Deploy `env_file` into `prefix` and write the status record.

    The record is written last and atomically: a folder without it was interrupted and is built again.
    """
    started = time.monotonic()
    (prefix / STATUS_FILE).unlink(missing_ok=True)
    python = prefix / "bin" / "python"
    record = {"name": env_file.stem, "python": str(python), "status": "ok", "reason": ""}
    try:
        install(env_file, prefix)
        record["packages"] = installed_packages(str(python))
    except RuntimeError as error:
        shutil.rmtree(prefix, ignore_errors=True)
        if not optional:
            raise
        record.update(status="unsupported", reason=f"environment cannot be built: {error}")
    record["seconds"] = round(time.monotonic() - started, 1)
    write_json(prefix / STATUS_FILE, record)
    print(f"{record['name']}: {record['status']} {record['reason']} ({record['seconds']} s)")


def ensure(env_file: Path, prefix: Path, optional: bool, keep: bool) -> None:
    """Deploy `env_file` into `prefix`, one process at a time; with `keep`, only if that has not been done."""
    if keep and is_deployed(prefix):
        return
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(prefix.with_name(f"{prefix.name}.lock"), wait=True):
        # Another process may have done it meanwhile.
        if not (keep and is_deployed(prefix)):
            deploy(env_file, prefix, optional)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env_file", type=Path, help="conda environment file, e.g. envs/onnxruntime.yaml")
    parser.add_argument("prefix", type=Path, nargs="?", help="folder of the virtual environment to make")
    parser.add_argument(
        "--optional", action="store_true", help="record an environment that cannot be built instead of failing"
    )
    parser.add_argument("--keep", action="store_true", help="do nothing if the environment is there")
    parser.add_argument("--record", type=Path, help="JSON file for name, status, reason and packages")
    options = parser.parse_args(arguments)
    try:
        if options.prefix is None:
            record = {"name": options.env_file.stem, "python": sys.executable, "status": "ok", "reason": ""}
            record["packages"] = installed_packages(sys.executable)
        else:
            ensure(options.env_file, options.prefix, options.optional, options.keep)
            record = json.loads((options.prefix / STATUS_FILE).read_text(encoding="utf-8"))
        if options.record:
            write_json(options.record, record)
    except (EnvironmentFileError, RuntimeError, OSError) as error:
        print(f"error: {options.env_file}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The pip deployer: it reads what conda reads, installs what it reads, and trusts nothing half-made."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import deploy_env

ROOT = Path(__file__).parents[2]
ENV_FILES = sorted((ROOT / "envs").glob("*.yaml"))


@pytest.mark.parametrize("path", ENV_FILES, ids=lambda path: path.stem)
def test_reads_the_same_as_a_yaml_library(path):
    dependencies = yaml.safe_load(path.read_text())["dependencies"]
    python, requirements = deploy_env.read_env_file(path)
    assert f"python={python}" in dependencies
    assert requirements == next(entry["pip"] for entry in dependencies if isinstance(entry, dict))


@pytest.mark.parametrize("path", ENV_FILES, ids=lambda path: path.stem)
def test_every_environment_file_is_named_as_its_environment_and_pins_exact_versions(path):
    assert yaml.safe_load(path.read_text())["name"] == path.stem
    assert all("==" in requirement for requirement in deploy_env.read_env_file(path)[1])


def write_env(folder, *requirements, python=f"{sys.version_info.major}.{sys.version_info.minor}"):
    lines = ["name: small", "dependencies:", f"  - python={python}", "  - pip", "  - pip:"]
    path = folder / "small.yaml"
    path.write_text("\n".join([*lines, *(f"      - {requirement}" for requirement in requirements)]) + "\n")
    return path


def test_refuses_a_requirement_without_exact_version(tmp_path):
    with pytest.raises(deploy_env.EnvironmentFileError, match=r"small\.yaml.*'six>=1' has no exact version"):
        deploy_env.read_env_file(write_env(tmp_path, "six>=1"))


def test_deploys_and_runs_the_post_deploy_script_inside_the_environment(tmp_path):
    env_file = write_env(tmp_path)
    env_file.with_suffix(".post-deploy.sh").write_text(
        'python -c "import sys; print(sys.prefix)" > "$VIRTUAL_ENV/here"\n'
    )
    prefix = tmp_path / "prefix"
    assert deploy_env.main([str(env_file), str(prefix)]) == 0
    record = json.loads((prefix / "deployed.json").read_text())
    assert record["status"] == "ok"
    assert (prefix / "here").read_text().strip() == str(prefix)
    assert subprocess.run([record["python"], "-c", "pass"]).returncode == 0


def test_a_required_environment_that_cannot_be_built_is_an_error(tmp_path, capsys):
    env_file, prefix = write_env(tmp_path, python="2.7"), tmp_path / "prefix"
    assert deploy_env.main([str(env_file), str(prefix)]) == 1
    assert "Python 2.7 is needed" in capsys.readouterr().err
    assert not prefix.exists()


def test_an_optional_environment_that_cannot_be_built_becomes_a_reason(tmp_path, monkeypatch):
    # Such a setting would be the reason, if it came through.
    monkeypatch.setenv("PIP_USER", "1")
    env_file, prefix = write_env(tmp_path, "no-such-package-of-sparsemark==1.0"), tmp_path / "prefix"
    assert deploy_env.main([str(env_file), str(prefix), "--optional"]) == 0
    record = json.loads((prefix / "deployed.json").read_text())
    assert record["status"] == "unsupported"
    assert "no-such-package-of-sparsemark" in record["reason"]


def test_packages_of_elsewhere_stay_outside(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/pip.py").write_text("raise SystemExit('this is no pip')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    assert deploy_env.main([str(write_env(tmp_path)), str(tmp_path / "prefix")]) == 0
    assert "pip" in json.loads((tmp_path / "prefix/deployed.json").read_text())["packages"]


def test_an_environment_that_is_there_is_kept_and_one_that_lost_its_interpreter_is_not(tmp_path):
    env_file, prefix = write_env(tmp_path), tmp_path / "prefix"
    arguments = [str(env_file), str(prefix), "--keep", "--record", str(tmp_path / "record.json")]
    assert deploy_env.main(arguments) == 0
    (prefix / "mark").touch()
    assert deploy_env.main(arguments) == 0
    assert (prefix / "mark").exists()
    assert json.loads((tmp_path / "record.json").read_text())["status"] == "ok"
    (prefix / "bin/python").unlink()
    assert deploy_env.main(arguments) == 0
    assert not (prefix / "mark").exists()
    assert (prefix / "bin/python").exists()

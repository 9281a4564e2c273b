"""A study on a real Slurm of one node, this machine (slurm_node.sh): killed on the way, and then to its report."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from test_workflow import ROOT, SNAKEMAKE, clone, overlay, rows, session_of

from sparsemark.measuring.topology import read_cpus

PROFILE = ROOT / "profiles/slurm/profile.yaml"
SLURM_NODE = ROOT / "tests/workflow/slurm_node.sh"
CPUS = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def slurm():
    """A running Slurm."""
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [name for name in ("slurmctld", "slurmd", "squeue", "munged") if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"needs the packages slurmctld, slurmd, slurm-client and munge (no {', '.join(missing)})")
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("needs Snakemake's plugin for Slurm: `make slurm`")
    if os.geteuid() != 0:
        pytest.skip("needs root: Slurm's daemons start jobs as other users")
    if Path("/etc/slurm/slurm.conf").exists():
        pytest.skip("this machine has a Slurm already")
    # Not pytest's own folder: everybody has to be able to enter it.
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([SLURM_NODE, "start", folder], check=True)
        yield
        subprocess.run([SLURM_NODE, "stop", folder], check=True)


@pytest.fixture(scope="module")
def study(slurm, tmp_path_factory):
    """The folder of a study whose Snakemake was killed during a benchmark and then started again."""
    checkout = clone(tmp_path_factory.mktemp("checkout"))
    folder = tmp_path_factory.mktemp("a study")
    (folder / ".envs").symlink_to(ROOT / ".envs")
    tiny = overlay(
        checkout,
        engines=["onnxruntime"],
        networks=dict.fromkeys(("pruned", "n_of_64", "dual", "sparse_dense", "sparse_sparse")),
        benchmarks=[{"networks": ["dense"], "precisions": ["fp32"], "batch_sizes": [1], "cores": [1, "all"]}],
    )
    profile = checkout / "profiles/slurm/profile.yaml"
    kind = "default-resources:\n  constraint: this_machine\n"
    profile.write_text(profile.read_text().replace("default-resources:\n", kind))
    command = [*SNAKEMAKE, "report", "--snakefile", checkout / "Snakefile", "--configfile", tiny]
    # Slurm refuses what asks for more than the node has.
    command += ["--workflow-profile", profile.parent, "--max-threads", str(CPUS)]
    # This Slurm keeps no accounts, and nobody else asks its controller.
    command += ["--slurm-status-command", "squeue", "--seconds-between-status-checks", "2"]
    command += ["--slurm-init-seconds-before-status-checks", "2"]
    run = subprocess.Popen(
        command, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while run.poll() is None and not running("rule_benchmark"):
        time.sleep(0.2)
    assert run.poll() is None, "it ended before it measured anything"
    for process in session_of(run.pid):
        os.kill(process, signal.SIGKILL)
    run.wait()
    assert running("rule_benchmark"), "what runs in Slurm does not end with Snakemake"
    completed = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    assert completed.returncode == 0, completed.stdout[-8000:] + completed.stderr[-8000:]
    return folder


def running(comment):
    queue = subprocess.run(["squeue", "--noheader", "--states=R", "--format=%k"], check=True, capture_output=True)
    return comment in queue.stdout.decode()


def slurm_jobs(rule):
    """What Slurm tells of the jobs of a rule: a dictionary for each."""
    told = subprocess.run(["scontrol", "show", "jobs", "--oneliner"], check=True, capture_output=True).stdout.decode()
    jobs = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in told.splitlines()]
    return [job for job in jobs if job["Comment"].startswith(f"rule_{rule}")]


def span(job):
    return [datetime.fromisoformat(job[key]) for key in ("StartTime", "EndTime")]


def test_a_killed_run_goes_on_to_its_report(study):
    assert (study / "results/report.html").exists()
    found = rows(study / "results/benchmarks.csv")
    assert found
    assert {row["status"] for row in found} == {"ok"}


def test_jobs_of_a_killed_run_are_ended(study):
    states = [job["JobState"] for job in slurm_jobs("benchmark")]
    assert "CANCELLED" in states
    assert states.count("COMPLETED") == len(list((study / "results/benchmark").rglob("*.json")))


def test_benchmarks_have_a_whole_node_of_the_kind_asked_for(study):
    jobs = [job for job in slurm_jobs("benchmark") if job["JobState"] == "COMPLETED"]
    assert {(int(job["NumCPUs"]), job["OverSubscribe"], job["Features"]) for job in jobs} == {
        (CPUS, "NO", "this_machine")
    }
    others = [job for job in slurm_jobs("") if job["JobState"] == "COMPLETED" and job not in jobs]
    for start, end in map(span, jobs):
        assert not [job["Comment"] for job in others if span(job)[0] < end and start < span(job)[1]]


def test_other_jobs_share_a_node(study):
    assert {(job["NumCPUs"], job["OverSubscribe"]) for job in slurm_jobs("evaluate")} == {("1", "OK")}


def test_all_cores_are_those_of_the_node(study):
    [path] = (study / "results/benchmark").rglob("batch1-coresall.json")
    layouts = [row["layout"].split("x") for row in json.loads(path.read_text())["rows"]]
    cores = {cpu.core for cpu in read_cpus()}
    assert max(int(instances) * int(threads) for instances, threads in layouts) >= len(cores)


def test_whatever_takes_every_core_has_a_whole_node():
    text = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    rules = re.split(r"^rule ", text, flags=re.MULTILINE)
    written = {rule.partition(":")[0] for rule in rules if "threads: EVERY_CORE\n" in rule}
    [preparations] = re.findall(r"threads: EVERY_CORE if preparation in \((.*)\) else 1", text)
    profile = yaml.safe_load(PROFILE.read_text())
    assert written
    assert profile["set-resources"].keys() == written | set(re.findall(r"\w+", preparations))
    assert all("--exclusive" in settings["slurm_extra"] for settings in profile["set-resources"].values())


def test_the_profile_changes_nothing_else():
    profile = yaml.safe_load(PROFILE.read_text())
    default = yaml.safe_load((ROOT / "profiles/default/profile.yaml").read_text())
    # How many cores there are, and how many jobs start at once, is Slurm's business.
    for key in default.keys() - {"cores", "max-jobs-per-timespan"}:
        assert profile[key] == default[key]

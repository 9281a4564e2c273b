"""A tiny study end to end, as its users run it: dry run, kills, second run, edits, and wrong input.

The tests run a copy of the working tree, so that the checkout's own results stay as they are. Its environments are
shared with the checkout: they are the same files.
"""

import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY = "tests/workflow/tiny.yaml"
SNAKEMAKE = shutil.which("snakemake")


def clone(folder):
    """A copy of what git knows of the working tree, with nothing ever run in it."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".envs").symlink_to(ROOT / ".envs")
    return folder


def snakemake(folder, *arguments, configfile=TINY):
    overlay = ["--configfile", configfile] if configfile else []
    return subprocess.run([SNAKEMAKE, *arguments, *overlay], cwd=folder, text=True, capture_output=True)


def planned(folder, *arguments, configfile=TINY):
    """The rules that a dry run would run, with how many jobs of each."""
    result = snakemake(folder, "-n", *arguments, configfile=configfile)
    assert result.returncode == 0, result.stderr
    table = re.search(r"^job +count\n-+ +-+\n(.*?)\ntotal", result.stdout + result.stderr, re.DOTALL | re.MULTILINE)
    rows = (line.split() for line in table[1].splitlines()) if table else ()
    return {name: int(count) for name, count in rows}


def overlay(folder, **changes):
    """An overlay file like the tiny one, with some top-level keys replaced."""
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load((folder / TINY).read_text()), **changes}))
    return path.name


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a tiny study that was killed twice with everything it had started, and then completed."""
    folder = clone(tmp_path_factory.mktemp("study"))
    command = [SNAKEMAKE, "report", "--configfile", TINY, "--cores", "48"]
    for stage in ("results/prepare_dataset", "results/benchmark"):
        run = subprocess.Popen(
            command, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while run.poll() is None and not (folder / stage).exists():
            time.sleep(0.1)
        time.sleep(1)
        for process in session_of(run.pid):
            os.kill(process, signal.SIGKILL)
        run.wait()
    completed = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    assert completed.returncode == 0, completed.stdout[-8000:] + completed.stderr[-8000:]
    return folder


def session_of(leader):
    """Every process below `leader`, whatever process group or session it has moved to; children first."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(status.parent.name)] = int(fields[1])
    found = [leader]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return reversed(found)


def rows(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_dry_run_works_on_a_clean_clone(tmp_path):
    folder = clone(tmp_path)
    (folder / ".envs").unlink()
    assert planned(folder, configfile=None)["benchmark"] > 0
    assert planned(folder, "report", configfile=None)["report"] == 1
    assert not (folder / "results").exists()


def test_the_complete_study_is_one_overlay(tmp_path):
    jobs = planned(clone(tmp_path), configfile="config.full.yaml")
    assert jobs["download_dataset"] == 2
    assert jobs["train"] + jobs.get("prune", 0) > 1


def test_every_case_and_round_is_a_row(study):
    config = yaml.safe_load((study / "results/config.yaml").read_text())
    found = rows(study / "results/benchmarks.csv")
    cases = {
        (network, engine, precision, str(batch_size), str(cores))
        for sweep in config["benchmarks"]
        for network in sweep.get("networks", config["networks"])
        for engine in sweep.get("engines", config["engines"])
        for precision in sweep["precisions"]
        for batch_size in sweep["batch_sizes"]
        for cores in sweep["cores"]
    }
    # The base, which ties the references to each other.
    cases.add(("dense", "onnxruntime", "fp32", "64", "1"))
    rounds = {}
    for row in found:
        case = tuple(row[key] for key in ("network", "engine", "precision", "batch_size", "cores"))
        rounds.setdefault(case, []).append(int(row["round"]))
        assert row["status"] == "ok" or row["reason"]
        assert row["status"] != "ok" or float(row["throughput_words_per_s"]) > 0
    assert set(rounds) == cases
    ok = {row["engine"] for row in found if row["status"] == "ok"}
    assert all(sorted(numbers) == [1, 2] for case, numbers in rounds.items() if case[1] in ok and case[2] == "fp32")


def test_the_reference_is_measured_against_itself_and_the_base(study):
    own = [row for row in rows(study / "results/benchmarks.csv") if row["is_reference"] == "True"]
    assert {row["batch_size"] for row in own} == {"1", "2", "64"}
    assert {row["batch_size"] for row in own if row["base_ratio"]} == {"1", "2"}


def test_networks_csv_has_every_network_and_seed(study):
    config = yaml.safe_load((study / "results/config.yaml").read_text())
    found = rows(study / "results/networks.csv")
    assert {(row["network"], row["seed"]) for row in found} == {
        (network, str(seed)) for network in config["networks"] for seed in config["seeds"]
    }
    dense = next(row for row in found if row["network"] == "dense")
    assert int(dense["parameters"]) == 2_522_128
    # conv1, conv2, linear1, linear2, from the shapes of the layers
    assert int(dense["macs"]) == 28 * 28 * 64 * 25 + 10 * 10 * 64 * 64 * 25 + 1600 * 1500 + 1500 * 12


def test_benchmarks_never_overlap(study):
    spans = []
    for path in (study / "results/benchmark").rglob("*.json"):
        record = json.loads(path.read_text())
        spans.append((record["started_at"], record["ended_at"]))
    assert len(spans) > 1
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_the_report_opens_without_a_network(study):
    report = (study / "results/report.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']https?://", report)
    for figure in (study / "results/figures").glob("*.svg"):
        assert figure.name in report


def test_a_second_run_has_nothing_to_do(study):
    result = snakemake(study, "report")
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout + result.stderr


def test_a_new_batch_size_measures_only_the_new_cases(study):
    config = yaml.safe_load((study / TINY).read_text())
    sweep = {**config["benchmarks"][0], "batch_sizes": [*config["benchmarks"][0]["batch_sizes"], 3]}
    jobs = planned(study, configfile=overlay(study, benchmarks=[sweep, *config["benchmarks"][1:]]))
    new = len(sweep["precisions"]) * len(sweep["cores"]) * len(sweep.get("engines", config["engines"]))
    assert jobs["benchmark"] == new * len(sweep["networks"])
    assert not {"train", "prune", "prepare_dataset", "evaluate"} & set(jobs)


def test_a_new_engine_measures_only_its_cases(study):
    config = yaml.safe_load((study / TINY).read_text())
    jobs = planned(study, configfile=overlay(study, engines=[*config["engines"], "pytorch_torchscript"]))
    [sweep] = config["benchmarks"]
    assert jobs["benchmark"] == len(sweep["precisions"]) * len(sweep["batch_sizes"])
    assert not {"train", "prune", "export_onnx"} & set(jobs)


def test_a_new_seed_trains_only_new_networks(study):
    networks = yaml.safe_load((study / "results/config.yaml").read_text())["networks"]
    jobs = planned(study, configfile=overlay(study, seeds=[1, 2]))
    assert jobs["train"] + jobs.get("prune", 0) == len(networks)
    assert "benchmark" not in jobs


@pytest.mark.parametrize("pattern", ["workflow/scripts/plot_*.py", "report/plot_*.rst"])
def test_a_figure_or_its_caption_changes_without_measuring(study, pattern):
    path = next(iter(sorted(study.glob(pattern))))
    before = path.read_text()
    path.write_text(before + "\n# changed\n")
    try:
        jobs = planned(study, "report")
    finally:
        path.write_text(before)
    assert jobs["report"] == 1
    assert not {"benchmark", "train", "evaluate", "export_onnx"} & set(jobs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, "the top level: unknown key 'sedes'"),
        ({"seeds": "one"}, "seeds: 'one' is not of type array"),
        ({"engines": ["warp"]}, "engines: 'warp' is unknown"),
        (
            {"benchmarks": [{"precisions": ["fp32"], "batch_sizes": [0], "cores": [1]}]},
            "benchmarks.0.batch_sizes.0: 0 is too small",
        ),
    ],
)
def test_a_wrong_configuration_ends_at_once_with_one_sentence(tmp_path, changes, message):
    folder = clone(tmp_path)
    result = snakemake(folder, "--cores", "1", configfile=overlay(folder, **changes))
    assert result.returncode != 0
    assert f"changed.yaml: {message}" in result.stdout + result.stderr
    assert not (folder / "results").exists()


def dataset_overlay(folder, url, sha256=None):
    archive = {"url": url} | ({"sha256": sha256} if sha256 else {})
    datasets = {"speech_commands_v0.02": {"title": "Speech Commands", "train": archive, "test": archive}}
    return overlay(folder, datasets=datasets, dataset={"name": "speech_commands_v0.02", "class_set": "commands"})


@pytest.mark.parametrize("fault", ["unreachable address", "wrong checksum", "truncated archive"])
def test_a_faulty_download_leaves_nothing_behind(tmp_path, fault):
    folder = clone(tmp_path)
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(b"not an archive")
    url = {"unreachable address": "http://127.0.0.1:9/none.tar.gz"}.get(fault, f"file://{archive}")
    sha256 = "0" * 64 if fault == "wrong checksum" else None
    configfile = dataset_overlay(folder, url, sha256)
    result = snakemake(
        folder, "results/prepare_dataset/speech_commands_v0.02-commands/dataset.json", configfile=configfile
    )
    assert result.returncode != 0
    output = result.stdout + result.stderr
    assert re.search(r"^error: .*(127\.0\.0\.1:9|archive|train)", output, re.MULTILINE), output
    assert not list(folder.glob("results/prepare_dataset/**/*.npy"))
    if fault != "truncated archive":
        assert not list(folder.glob("data/download_dataset/**/*.tar.gz"))


def test_the_schemas_describe_every_column(study):
    for name in ("benchmarks", "networks"):
        schema = yaml.safe_load((study / f"workflow/schemas/{name}.schema.yaml").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        assert set(rows(study / f"results/{name}.csv")[0]) == set(schema["properties"])

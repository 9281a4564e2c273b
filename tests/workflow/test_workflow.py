"""A tiny study end to end, as its users run it: dry run, kills, second run, edits, moves, and wrong input.

The tests run a copy of the working tree, so that the checkout's own results stay as they are. Its environments are
shared with the checkout: they are the same files. The study itself runs in a folder of its own, from a read-only
checkout, and both have names that a careless command would trip over.
"""

import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from sparsemark.files import exclusive_lock

ROOT = Path(__file__).parents[2]
TINY = "tests/workflow/tiny.yaml"
SNAKEMAKE = [sys.executable, "-m", "snakemake"]


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


def snakemake(folder, *arguments, configfile=TINY, checkout=None, **options):
    """Run Snakemake in `folder` with the workflow of `checkout`, which is the folder itself by default."""
    checkout = checkout or folder
    overlay = ["--configfile", checkout / configfile] if configfile else []
    command = [*SNAKEMAKE, "--snakefile", checkout / "Snakefile", *arguments, *overlay]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, **options)


def planned(folder, *arguments, **options):
    """The rules that a dry run would run, with how many jobs of each."""
    result = snakemake(folder, "-n", *arguments, **options)
    assert result.returncode == 0, result.stderr
    table = re.search(r"^job +count\n-+ +-+\n(.*?)\ntotal", result.stdout + result.stderr, re.DOTALL | re.MULTILINE)
    rows = (line.split() for line in table[1].splitlines()) if table else ()
    return {name: int(count) for name, count in rows}


def overlay(folder, **changes):
    """An overlay file like the tiny one, with some top-level keys replaced."""
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load((ROOT / TINY).read_text()), **changes}))
    return path


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout that others share: it can only be read."""
    folder = clone(tmp_path_factory.mktemp("it's a chëckout"))
    (folder / ".envs").unlink()
    entries = [folder, *folder.rglob("*")]
    for path in entries:
        path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    for path in entries:
        path.chmod(path.stat().st_mode | 0o200)


@pytest.fixture(scope="module")
def study(tmp_path_factory, checkout):
    """The folder of a tiny study that was killed twice with everything it had started, and then completed."""
    folder = tmp_path_factory.mktemp("Bob's wörk")
    (folder / ".envs").symlink_to(ROOT / ".envs")
    # As the module system of a cluster may have it: packages that must not reach the environments.
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for package in ("torch", "onnxruntime"):
        (elsewhere / f"{package}.py").write_text("raise ImportError('a package of elsewhere')\n")
    surroundings = {**os.environ, "PYTHONPATH": str(elsewhere)}
    command = [*SNAKEMAKE, "--snakefile", checkout / "Snakefile", "report", "--configfile", checkout / TINY]
    command += ["--cores", "48"]
    for stage in ("results/prepare_dataset", "results/benchmark"):
        run = subprocess.Popen(
            command,
            cwd=folder,
            env=surroundings,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while run.poll() is None and not (folder / stage).exists():
            time.sleep(0.1)
        time.sleep(1)
        # Nobody else may change the folder meanwhile.
        with pytest.raises(BlockingIOError), exclusive_lock(folder / ".snakemake/study.lock"):
            pass
        for process in session_of(run.pid):
            os.kill(process, signal.SIGKILL)
        run.wait()
    completed = subprocess.run(command, cwd=folder, env=surroundings, text=True, capture_output=True)
    assert completed.returncode == 0, completed.stdout[-8000:] + completed.stderr[-8000:]
    return folder


@pytest.fixture
def moved(tmp_path, checkout):
    """The same checkout at another place, its files written at another time, and without environments."""
    return shutil.copytree(checkout, tmp_path / "moved", copy_function=shutil.copyfile)


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


def test_a_dry_run_from_elsewhere_plans_the_same_jobs(tmp_path, checkout):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    clone(inside)
    jobs = planned(inside, "report", configfile=None)
    assert jobs["benchmark"] > 0
    assert planned(outside, "report", configfile=None, checkout=checkout) == jobs
    # The catalogue of workflows, and many a reader, looks for the Snakefile here.
    assert planned(inside, "report", "--snakefile", "workflow/Snakefile", "--cores", "2", configfile=None) == jobs


def test_the_study_leaves_nothing_in_a_shared_checkout(study, checkout):
    found = {str(path.relative_to(checkout)) for path in checkout.rglob("*")}
    made = {path for path in found if "__pycache__" not in path and not (ROOT / path).exists()}
    assert not made
    assert not {"results", "logs", "data", ".snakemake", ".envs"} & found


def test_a_second_run_has_nothing_to_do(study, checkout):
    result = snakemake(study, "report", checkout=checkout)
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout + result.stderr


def test_a_moved_checkout_has_nothing_to_do(study, moved):
    assert planned(study, "report", checkout=moved) == {}


def test_another_workflow_uses_this_one_as_a_module(tmp_path, study, moved):
    snakefile = tmp_path / "Snakefile"
    snakefile.write_text(
        "import yaml\n"
        "module sparsemark:\n"
        f"    snakefile: {str(moved / 'Snakefile')!r}\n"
        f"    config: yaml.safe_load(open({str(moved / TINY)!r}))\n"
        "use rule * from sparsemark\n"
        "rule mine:\n"
        "    input: 'results/report.html'\n"
        "    output: 'mine.txt'\n"
        "    shell: 'cp {input} {output}'\n"
    )
    assert planned(study, "mine.txt", "--snakefile", snakefile, configfile=None, checkout=moved) == {"mine": 1}
    fresh = planned(tmp_path, "mine.txt", "--snakefile", snakefile, "--printshellcmds", configfile=None, checkout=moved)
    assert fresh["report"] == fresh["prepare_dataset"] == 1


@pytest.fixture
def without_environments(study):
    """The study after somebody has made room on the disk."""
    (study / ".envs").rename(study / "gone")
    yield study
    (study / "gone").rename(study / ".envs")


def test_environments_that_are_gone_are_no_reason_to_run_anything(without_environments, moved):
    assert planned(without_environments, "report", checkout=moved) == {}


def test_another_environment_file_makes_anew_what_depends_on_it(study, moved):
    with (moved / "envs/onnxruntime.yaml").open("a") as handle:
        handle.write("      - six==1.17.0\n")
    jobs = planned(study, "report", checkout=moved)
    assert jobs["deploy_env"] == 1
    assert jobs["quantize_onnxruntime"] > 0
    assert jobs["benchmark"] > 0
    assert not {"train", "prune", "export_onnx", "prepare_dataset", "quantize_pytorch"} & set(jobs)


def test_results_alone_can_be_reported_on_another_machine(tmp_path, study, moved):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(study / "results", elsewhere / "results")
    jobs = planned(elsewhere, "report", checkout=moved, configfile=elsewhere / "results/config.yaml")
    assert jobs == {}
    (elsewhere / "results/report.html").unlink()
    result = snakemake(
        elsewhere, "report", "--cores", "2", checkout=moved, configfile=elsewhere / "results/config.yaml"
    )
    assert result.returncode == 0, result.stderr
    assert not (elsewhere / ".envs").exists()
    assert "plot_pareto.svg" in (elsewhere / "results/report.html").read_text()


def test_a_new_batch_size_measures_only_the_new_cases(without_environments, tmp_path, moved):
    study = without_environments
    config = yaml.safe_load((moved / TINY).read_text())
    sweep = {**config["benchmarks"][0], "batch_sizes": [*config["benchmarks"][0]["batch_sizes"], 3]}
    changed = overlay(tmp_path, benchmarks=[sweep, *config["benchmarks"][1:]])
    jobs = planned(study, checkout=moved, configfile=changed)
    new = len(sweep["precisions"]) * len(sweep["cores"]) * len(sweep.get("engines", config["engines"]))
    assert jobs["benchmark"] == new * len(sweep["networks"])
    assert not {"train", "prune", "prepare_dataset", "evaluate"} & set(jobs)


def test_a_new_engine_measures_only_its_cases(without_environments, tmp_path, moved):
    config = yaml.safe_load((moved / TINY).read_text())
    changed = overlay(tmp_path, engines=[*config["engines"], "pytorch_torchscript"])
    jobs = planned(without_environments, checkout=moved, configfile=changed)
    [sweep] = config["benchmarks"]
    assert jobs["benchmark"] == len(sweep["precisions"]) * len(sweep["batch_sizes"])
    assert not {"train", "prune", "export_onnx"} & set(jobs)


def test_a_new_seed_trains_only_new_networks(study, tmp_path, checkout):
    networks = yaml.safe_load((study / "results/config.yaml").read_text())["networks"]
    jobs = planned(study, checkout=checkout, configfile=overlay(tmp_path, seeds=[1, 2]))
    assert jobs["train"] + jobs.get("prune", 0) == len(networks)
    assert "benchmark" not in jobs


@pytest.mark.parametrize("pattern", ["workflow/scripts/plot_*.py", "report/plot_*.rst", "resources/*.csv"])
def test_a_figure_or_its_caption_changes_without_measuring(without_environments, moved, pattern):
    path = next(iter(sorted(moved.glob(pattern))))
    path.write_text(path.read_text() + "\n# changed\n")
    jobs = planned(without_environments, "report", checkout=moved)
    assert jobs["report"] == 1
    assert not {"benchmark", "train", "evaluate", "export_onnx", "deploy_env"} & set(jobs)


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
        schema = yaml.safe_load((ROOT / f"workflow/schemas/{name}.schema.yaml").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        assert set(rows(study / f"results/{name}.csv")[0]) == set(schema["properties"])


def test_conda_deploys_the_environments(tmp_path_factory):
    """Through Snakemake's own way of calling conda, and back to pip."""
    # Short names: espeak-ng takes no path of more than 160 characters.
    folder = clone(tmp_path_factory.mktemp("c"))
    sweep = {"networks": ["dense"], "precisions": ["fp32"], "batch_sizes": [1], "cores": [1]}
    changed = overlay(folder, engines=["onnxruntime"], benchmarks=[sweep])
    path = os.pathsep.join(
        [str(folder / "tests/workflow/conda/bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    target = "results/benchmarks.csv"
    result = snakemake(
        folder,
        target,
        "--sdm",
        "conda",
        "--conda-prefix",
        "c",
        "--cores",
        "48",
        configfile=changed,
        env={**os.environ, "PATH": path},
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-8000:]
    assert {row["status"] for row in rows(folder / target)} == {"ok"}
    assert any(link.is_symlink() for link in (folder / "c").iterdir())
    [record] = folder.glob("results/deploy_env/onnxruntime-*.json")
    assert "onnxruntime" in json.loads(record.read_text())["packages"]
    assert planned(folder, target, configfile=changed) == {}
    (folder / "results/benchmarks.csv").unlink()
    assert planned(folder, target, configfile=changed) == {"collect_benchmarks": 1}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("Snakefile", "# The study", "import sys; sys.modules['scipy'] = None  #", "lacks scipy: install what"),
        ("Snakefile", "# The study", "import platform; platform.system = lambda: 'Darwin'  #", "and this is Darwin"),
        ("rules/requirements.smk", '"3.11"', '"2.6"', "Python 2.6 is needed, this is Python 3"),
    ],
    ids=["library", "system", "python"],
)
def test_what_is_missing_is_said_when_the_snakefile_is_read(tmp_path, file, old, new, message):
    path = clone(tmp_path) / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    result = snakemake(tmp_path, "-n", configfile=None)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr

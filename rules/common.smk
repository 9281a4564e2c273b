# What the other rules files share. What needs no Snakemake is in workflow/scripts/sparsemark/study.py, where it is tested.
import fcntl
import json
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

sys.path.insert(0, str(Path(workflow.basedir) / "workflow" / "scripts"))

from sparsemark import study
from sparsemark.files import InputError
from sparsemark.measuring import reference
from sparsemark.study import sources

# Overlays given on the command line come first in Snakemake's list.
overlays = [str(path) for path in workflow.configfiles if Path(path).resolve() != Path("config.yaml").resolve()]
try:
    study.validate(config, " + ".join(["config.yaml", *overlays]))
except InputError as error:
    raise WorkflowError(str(error)) from None

DATA = study.data_name(config)
CASES = study.cases(config)
NETWORKS = list(config["networks"])
DENSE = study.dense_network(config)
MEASURED_SEED = config["seeds"][0]
CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
if not CONDA:
    # A job's `python` is the one that runs Snakemake, whether or not its environment is activated.
    shell.prefix(f"export PATH='{Path(sys.executable).parent}':\"$PATH\"; ")
# A benchmark takes every core that Snakemake may use, so nothing else runs beside it.
EVERY_CORE = workflow.cores if isinstance(workflow.cores, int) else os.cpu_count()


wildcard_constraints:
    data=r"[^/]+",
    network="|".join(NETWORKS),
    seed=r"\d+",
    precision="fp32|bf16|int8",
    engine="|".join(study.engines(config)),
    batch_size=r"\d+",
    cores="1|all",


def lock_study():
    """Let one run at a time change this folder. The system drops the lock with its process, however that ends."""
    global study_lock
    Path(".snakemake").mkdir(exist_ok=True)
    study_lock = open(".snakemake/study.lock", "w")
    try:
        fcntl.flock(study_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise WorkflowError("another run of the study is at work in this folder; wait for it, or end it") from None


def environment(name):
    """The input that makes a job wait for its environment; conda's are deployed by Snakemake itself."""
    return [] if CONDA else f"{study.environment_prefix(name)}/deployed.json"


def environment_option(name):
    return "" if CONDA else f"--environment-status {environment(name)}"


def python(name):
    """The interpreter of an environment: conda's is activated for the job, pip's has a folder."""
    return "python" if CONDA else f"{study.environment_prefix(name)}/bin/python"


def engine_environment(engine):
    return study.engine_class(engine).environment


def trained(network, file, seed="{seed}"):
    """A file that training or pruning leaves for a network, e.g. its model.pt."""
    return f"results/{study.trainer(config, network)}/{DATA}/{network}/seed{seed}/{file}"


def teacher_model(wildcards):
    """The trained network whose opinions a network learns, or nothing."""
    teacher = study.teacher(config, wildcards.network)
    return trained(teacher, "model.pt", wildcards.seed) if teacher else []


def from_checkpoint(wildcards):
    """The trained network itself, for tools that do not read ONNX."""
    return trained(wildcards.network, "model.pt", wildcards.seed)


def as_json(value):
    """A setting as an argument. Keys are sorted: their order in a file is no reason to run a job again."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def model_files(wildcards):
    """The model that an engine loads for a case, and the status of the rule that tried to make it, if it may fail."""
    model = study.model_path(
        config,
        engine=wildcards.engine,
        precision=wildcards.precision,
        network=wildcards.network,
        seed=getattr(wildcards, "seed", MEASURED_SEED),
        batch_size=int(getattr(wildcards, "batch_size", 64)),
    )
    if model is None:
        return []
    made_by = model.split("/")[1]
    return [model] if made_by in ("train", "prune", "export_onnx") else [model, f"{model}.json"]


def reference_environment():
    """The input that tells where the reference's environment is: a case's own is another one."""
    return rules.locate_reference.output[0] if CONDA else environment(engine_environment(reference.ENGINE))


def reference_python():
    return f"$(cat {reference_environment()})" if CONDA else python(engine_environment(reference.ENGINE))


def reference_model(batch_size="{batch_size}"):
    """The model that the reference loads: every case takes turns with it."""
    return study.model_path(
        config,
        engine=reference.ENGINE,
        precision=reference.PRECISION,
        network=DENSE,
        seed=MEASURED_SEED,
        batch_size=batch_size,
    )


def model_option(wildcards):
    files = model_files(wildcards)
    return f"--model {files[0]}" if files else ""


def captions():
    """Every text of the report; a changed one makes the report again, and nothing else."""
    return sorted(str(path) for path in Path(workflow.basedir, "report").glob("*.rst"))


def archives(wildcards):
    entry = config["datasets"][wildcards.dataset]
    return [f"data/download_dataset/{wildcards.dataset}/{part}.tar.gz" for part in ("train", "test") if part in entry]


def archive_options(paths):
    return " ".join(f"--{option} {path}" for option, path in zip(("archive", "test-archive"), paths))


def sha256_option(dataset, part):
    archive = config["datasets"][dataset][part]
    return f"--sha256 {archive['sha256']}" if "sha256" in archive else ""


def dataset_settings(dataset):
    entry = config["datasets"][dataset]
    described = {key: entry[key] for key in ("title", "notes") if key in entry}
    return {**entry.get("settings", {}), **described}


TRAINED_FILES = [
    "model.pt",
    "logits.npy",
    "metrics.json",
    "confusion.csv",
    "history.csv",
]


def benchmark_files():
    return [
        f"results/benchmark/{DATA}/{case.network}/{case.precision}/{case.engine}/"
        f"batch{case.batch_size}-cores{case.cores}.json"
        for case in CASES
    ]


def evaluation_files():
    """One evaluation per engine, network and precision that is measured and for which the engine has a model.

    INT8 networks of all seeds are evaluated; in FP32, an engine computes what the training tested.
    """
    artefacts = {
        (case.network, case.precision, case.engine)
        for case in CASES
        if case.precision in study.engine_class(case.engine).models
    }
    return [
        f"results/evaluate/{DATA}/{network}/{precision}/{engine}/seed{seed}.json"
        for network, precision, engine in sorted(artefacts)
        for seed in (study.seeds(config, network) if precision == "int8" else [MEASURED_SEED])
    ]


def metrics_files():
    return [trained(network, "metrics.json", seed) for network in NETWORKS for seed in study.seeds(config, network)]


def page_file(page):
    """Figures are drawn, tables are written."""
    return f"results/figures/{page}.svg" if page.startswith("plot_") else f"results/tables/{page}.html"


def table_options(tables):
    """The options of a page's script: each table's name and its files."""
    files = {table: TABLES[table] for table in tables}
    return " ".join(
        f"--{table} {' '.join([found] if isinstance(found, str) else found)}" for table, found in files.items()
    )


# Engines whose tools ablate_quantization.py and profile_operators.py know.
ABLATED = [engine for engine in ("onnxruntime", "openvino", "deepsparse") if engine in config["engines"]]
PROFILED = [engine for engine in (*ABLATED, "tvm") if engine in config["engines"]]


def ablation_files():
    return [f"results/ablate_quantization/{DATA}/{DENSE}/{engine}.csv" for engine in ABLATED]


def profile_files():
    """The dense network at batch size 64, before and after quantisation, in each engine that has a profiler."""
    return [
        f"results/profile_operators/{DATA}/{DENSE}/{precision}/{engine}.csv"
        for engine in PROFILED
        for precision in ("fp32", "int8")
        if precision in study.engine_class(engine).models
    ]

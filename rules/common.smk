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
TRAINED = study.trained_networks(config)
FROM_FILES = study.file_networks(config)
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
    engine="|".join(config["engines"]),
    batch_size=r"\d+",
    cores="1|all",
    round=r"\d+",


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
    """A file that training, pruning or importing leaves for a network, e.g. its logits.npy."""
    return f"results/{study.trainer(config, network)}/{study.data_of(config, network)}/{network}/seed{seed}/{file}"


def samples(split):
    """The input function for a network's samples, of `test` or `calibration`."""

    def path(wildcards):
        if wildcards.network in FROM_FILES:
            return trained(wildcards.network, f"{split}.npz", MEASURED_SEED)
        return f"results/extract_features/{DATA}/{split}.npz"

    return path


def network_file(network):
    """The ONNX file of a network that comes from one, downloaded if it is an address."""
    root = study.data_of(config, network)
    file = config["networks"][root]["onnx"]
    return f"data/download_network/{root}.onnx" if study.is_address(file) else file


def network_files(network):
    """Every file of the user's own that a network is made from."""
    if network not in FROM_FILES:
        return study.network_code(config, network)
    entry = study.training_spec(config, network)
    return [network_file(network), *([entry["data"]] if "data" in entry else [])]


def exported(wildcards):
    """A network as ONNX at a batch size."""
    folder = "fix_batch_size" if wildcards.network in FROM_FILES else "export_onnx"
    return f"results/{folder}/{wildcards.data}/{wildcards.network}/seed{wildcards.seed}/batch{wildcards.batch_size}.onnx"


def exported_status(wildcards):
    """The status of a network from a file at a batch size, which it may not have."""
    return f"{exported(wildcards)}.json" if wildcards.network in FROM_FILES else []


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


def sha256_option(download):
    return f"--sha256 {download['sha256']}" if "sha256" in download else ""


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
        f"results/benchmark/{study.data_of(config, case.network)}/{case.network}/{case.precision}/{case.engine}/"
        f"batch{case.batch_size}-cores{case.cores}/round{number}.json"
        for number in range(1, config["measuring"]["rounds"] + 1)
        for case in CASES
    ]


def has_model(network, precision, engine):
    case = {"network": network, "precision": precision, "engine": engine}
    return study.model_path(config, **case, seed=MEASURED_SEED, batch_size=64) is not None


def evaluation_files():
    """One evaluation per engine, network and precision that is measured and for which the engine has a model.

    INT8 networks of all seeds are evaluated; in FP32, an engine computes what the training tested.
    """
    artefacts = {
        (case.network, case.precision, case.engine)
        for case in CASES
        if has_model(case.network, case.precision, case.engine)
    }
    return [
        f"results/evaluate/{study.data_of(config, network)}/{network}/{precision}/{engine}/seed{seed}.json"
        for network, precision, engine in sorted(artefacts)
        for seed in (study.seeds(config, network) if precision == "int8" else [MEASURED_SEED])
    ]


def metrics_files():
    return [trained(network, "metrics.json", seed) for network in NETWORKS for seed in study.seeds(config, network)]


def round_priority(wildcards):
    """Rounds one after the other, every case once in each, and all of them behind whatever is not a benchmark."""
    return -int(wildcards.round)


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
DENSE = next((name for name in TRAINED if not config["networks"][name]), (TRAINED or NETWORKS)[0])


def ablation_files():
    return [f"results/ablate_quantization/{DATA}/{DENSE}/{engine}.csv" for engine in ABLATED if TRAINED]


def profile_files():
    """The dense network at batch size 64, before and after quantisation, in each engine that has a profiler."""
    return [
        f"results/profile_operators/{study.data_of(config, DENSE)}/{DENSE}/{precision}/{engine}.csv"
        for engine in PROFILED
        for precision in ("fp32", "int8")
        if precision in study.engine_class(engine).models
    ]

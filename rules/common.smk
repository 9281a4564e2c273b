# What the other rules files share. What needs no Snakemake is in workflow/scripts/sparsemark/study.py, where it is tested.
import json
import os
from contextlib import ExitStack
from pathlib import Path

import yaml
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from sparsemark import configuration, study
from sparsemark.files import InputError, exclusive_lock
from sparsemark.measuring import reference
from sparsemark.networks.entries import is_address
from sparsemark.study import fingerprint

if workflow.modifier.skip_configfile:
    # A workflow that uses this one as a module: its configuration is an overlay, too.
    overlay, config = config, load_configfile(study.ROOT / "config.yaml")
    update_config(config, overlay)
# Overlays given on the command line come first in Snakemake's list.
overlays = [str(path) for path in workflow.configfiles if Path(path).resolve() != study.ROOT / "config.yaml"]
try:
    config = configuration.resolve(config, " + ".join(["config.yaml", *overlays]))
except InputError as error:
    raise WorkflowError(str(error)) from None

DATA = study.data_name(config)
CASES = study.cases(config)
NETWORKS = list(config["networks"])
TRAINED = study.trained_networks(config)
FROM_FILES = study.file_networks(config)
DENSE = study.dense_network(config)
MEASURED_SEED = config["seeds"][0]
# A benchmark takes every core that Snakemake may use, so nothing else runs beside it. The head of a cluster knows no such
# number: profiles/slurm asks for whole nodes, and the job, which reads this anew, takes what Slurm counts on its node.
EVERY_CORE = workflow.resource_settings.cores or 1
if workflow.remote_exec:
    EVERY_CORE = int(os.environ.get("SLURM_CPUS_ON_NODE", EVERY_CORE))
# For a cluster: the largest data set has 106,000 clips of 32 kB, which a job may hold twice, beside PyTorch.
DATA_MB = 8000


wildcard_constraints:
    data=r"[^/]+",
    network="|".join(NETWORKS),
    seed=r"\d+",
    precision="fp32|bf16|int8",
    engine="|".join(study.engines(config)),
    batch_size=r"\d+",
    cores="1|all",


held_by_this_process = ExitStack()


def lock_study():
    """Let one run at a time change this folder."""
    Path(".snakemake").mkdir(exist_ok=True)
    try:
        held_by_this_process.enter_context(exclusive_lock(Path(".snakemake/study.lock")))
    except BlockingIOError:
        raise WorkflowError("another run of the study is at work in this folder; wait for it, or end it") from None


def trained(network, file, seed="{seed}"):
    """A file that training, pruning or importing leaves for a network, e.g. its logits.npy."""
    return f"results/{study.trainer(config, network)}/{study.data_of(config, network)}/{network}/seed{seed}/{file}"


def samples_of(network, split):
    """A network's samples, of `test` or `calibration`."""
    if network in FROM_FILES:
        return trained(network, f"{split}.npz", MEASURED_SEED)
    return f"results/extract_features/{DATA}/{split}.npz"


def samples(split):
    """Samples of a job's network, as an input."""

    def path(wildcards):
        return samples_of(wildcards.network, split)

    return path


def network_file(network):
    """The ONNX file of a network that comes from one, downloaded if it is an address."""
    root = study.data_of(config, network)
    file = config["networks"][root]["onnx"]
    return f"data/download_network/{root}.onnx" if is_address(file) else file


def own_files(network):
    """The files of the user's own that a network is made from."""
    spec = study.training_spec(config, network)
    if network in FROM_FILES:
        return [network_file(network), *([spec["data"]] if "data" in spec else [])]
    return [spec["module"].rpartition(":")[0]] if "module" in spec else []


def own_files_of(wildcards):
    return own_files(wildcards.network)


def network_address(wildcards):
    return config["networks"][wildcards.network]["onnx"]


def network_code(name):
    """The fingerprint of a program and of the architecture that it trains, as a parameter."""

    def code(wildcards):
        architecture = study.architecture(config, wildcards.network)
        return fingerprint(name, *([f"sparsemark/networks/architectures/{architecture}"] if architecture else []))

    return code


def exported(wildcards):
    """A network as ONNX at a batch size."""
    folder = "fix_batch_size" if wildcards.network in FROM_FILES else "export_onnx"
    return (
        f"results/{folder}/{wildcards.data}/{wildcards.network}/seed{wildcards.seed}/batch{wildcards.batch_size}.onnx"
    )


def exported_status(wildcards):
    """The status of a network from a file at a batch size, which it may not have."""
    return f"{exported(wildcards)}.json" if wildcards.network in FROM_FILES else []


def input_status(wildcards, input):
    return f"--input-status {input.model_status}" if input.model_status else ""


def teacher_model(wildcards):
    """The trained network whose opinions a network learns, or nothing."""
    teacher = study.teacher(config, wildcards.network)
    return trained(teacher, "model.pt", wildcards.seed) if teacher else []


def teacher_option(wildcards, input):
    return f"--teacher {input.teacher}" if input.teacher else ""


def start_model(wildcards):
    """The trained network that a network is pruned from."""
    return trained(config["networks"][wildcards.network]["start"], "model.pt", wildcards.seed)


def training_spec(wildcards):
    return as_json(study.training_spec(config, wildcards.network))


def reference_logits(wildcards):
    """What the trained network itself answers to the test clips."""
    return trained(wildcards.network, "logits.npy", wildcards.seed)


def measured_logits(wildcards):
    return trained(wildcards.network, "logits.npy", MEASURED_SEED)


def from_checkpoint(wildcards):
    """The trained network itself, for tools that do not read ONNX."""
    return trained(wildcards.network, "model.pt", wildcards.seed)


def as_json(value):
    """A setting as an argument. Keys are sorted: their order in a file is no reason to run a job again."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def config_in_order(wildcards, output):
    """The configuration as an argument, its keys in the order of the files."""
    return json.dumps(config)


def evaluated_batch(wildcards):
    """The batch size at which the whole test set is run; of a network from a file, one that is measured anyway."""
    sizes = [case.batch_size for case in CASES if case.network == wildcards.network]
    return max(sizes) if wildcards.network in FROM_FILES else 64


def model_files(wildcards):
    """The model that an engine loads for a case, and the status of the rule that tried to make it, if it may fail."""
    model = study.model_path(
        config,
        engine=wildcards.engine,
        precision=wildcards.precision,
        network=wildcards.network,
        seed=getattr(wildcards, "seed", MEASURED_SEED),
        batch_size=int(getattr(wildcards, "batch_size", 0)) or evaluated_batch(wildcards),
    )
    if model is None:
        return []
    made_by = model.split("/")[1]
    return [model] if made_by in ("train", "prune", "export_onnx") else [model, f"{model}.json"]


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


def archives(wildcards):
    entry = config["datasets"][wildcards.dataset]
    return [f"data/download_dataset/{wildcards.dataset}/{part}.tar.gz" for part in ("train", "test") if part in entry]


def archive_options(wildcards, input):
    return " ".join(f"--{option} {path}" for option, path in zip(("archive", "test-archive"), input.archives))


def sha256_option(wildcards):
    archive = config["datasets"][wildcards.dataset][wildcards.part]
    return f"--sha256 {archive['sha256']}" if "sha256" in archive else ""


def network_sha256_option(wildcards):
    entry = config["networks"][wildcards.network]
    return f"--sha256 {entry['sha256']}" if "sha256" in entry else ""


def class_words(wildcards):
    """The words of a class set, without `unknown` and `silence`."""
    return config["class_sets"][wildcards.class_set]


def dataset_settings(wildcards):
    entry = config["datasets"][wildcards.dataset]
    described = {key: entry[key] for key in ("title", "notes") if key in entry}
    return as_json({**entry.get("settings", {}), **described})


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
        f"batch{case.batch_size}-cores{case.cores}.json"
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


# Engines whose tools ablate_quantization.py and profile_operators.py know.
ABLATED = [engine for engine in ("onnxruntime", "openvino", "deepsparse") if engine in config["engines"]]
PROFILED = [engine for engine in (*ABLATED, "tvm") if engine in config["engines"]]


def ablation_files():
    return [f"results/ablate_quantization/{DATA}/{DENSE}/{engine}.csv" for engine in ABLATED if TRAINED]


def profile_files():
    """The dense network at batch size 64, before and after quantisation, in each engine that has a profiler."""
    return [
        f"results/profile_operators/{DATA}/{DENSE}/{precision}/{engine}.csv"
        for engine in PROFILED
        for precision in ("fp32", "int8")
        if TRAINED and precision in study.engine_class(engine).models
    ]


def options_of_tool(pattern):
    """The options of a preparation's script, as a parameter."""

    def options(wildcards, input):
        return pattern.format(input=input, wildcards=wildcards)

    return options


# What pages are made from: the study's own tables, and one of the workflow's.
TABLES = {
    "benchmarks": "results/benchmarks.csv",
    "networks": "results/networks.csv",
    "accuracies": "results/accuracies.csv",
    "claims": "results/claims.csv",
    "config": "results/config.yaml",
    "ablation": ablation_files(),
    "profile": profile_files(),
}
PUBLISHED = "resources/fpga.csv"
PAGES = yaml.safe_load((study.ROOT / "report/pages.yaml").read_text(encoding="utf-8"))
# Without a trained network the study's own questions have no answers; without a file, its section has nothing to show.
OWN_SECTION, GENERAL_SECTIONS = "5 Networks from files", ("7 Tables", "8 How it was measured")
if not TRAINED:
    PAGES = {name: page for name, page in PAGES.items() if page["section"] in (OWN_SECTION, *GENERAL_SECTIONS)}
if not FROM_FILES:
    PAGES = {name: page for name, page in PAGES.items() if page["section"] != OWN_SECTION}


def page_file(page):
    """Figures are drawn, tables are written."""
    return f"results/figures/{page}.svg" if page.startswith("plot_") else f"results/tables/{page}.html"


def page_tables(page):
    """The files of the study that a page is made from."""
    return [TABLES[table] for table in PAGES[page]["tables"] if table != "published"]


def page_code(page):
    return fingerprint(page, files=(PUBLISHED,) if "published" in PAGES[page]["tables"] else ())


def page_options(page):
    """The options of a page's program, each table's name and its files, as a parameter."""

    def options(wildcards, output):
        files = TABLES | {"published": here(study.ROOT / PUBLISHED)}
        return " ".join(
            f"--{table} {files[table] if isinstance(files[table], str) else ' '.join(files[table])}"
            for table in PAGES[page]["tables"]
        )

    return options


def report_files():
    """What the report is made from beside the results: its texts and its style."""
    return tuple(str(path.relative_to(study.ROOT)) for path in sorted((study.ROOT / "report").iterdir()))


def deployment(wildcards, output):
    return "--sdm conda" if CONDA else ""

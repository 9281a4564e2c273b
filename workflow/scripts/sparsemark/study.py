"""The study as data: the cases it measures, and where each file belongs. `configuration.py` reads and checks it.

Pure functions on plain values, used by `rules/common.smk` and by the tests.
"""

import ast
import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from sparsemark.engines import engine_class
from sparsemark.measuring import reference
from sparsemark.networks.entries import ARCHITECTURE, FILE_KEYS, chain, from_file
from sparsemark.networks.sparsity_patterns import DEFAULT_ARCHITECTURE

#: What makes an engine's model from a checkpoint, not from ONNX.
FROM_CHECKPOINT = ("{trained}", "quantize_pytorch")
SCRIPTS = Path(__file__).parents[1]
ROOT = SCRIPTS.parents[1]


@dataclass(frozen=True, order=True)
class Case:
    """One thing to measure: an engine with one network at one precision, batch size and share of the processor."""

    network: str
    precision: str
    engine: str
    batch_size: int
    cores: str  # "1" or "all"

    @property
    def title(self) -> str:
        return f"{self.engine}, {self.network} {self.precision}, batch {self.batch_size}, cores {self.cores}"


def engines(config: dict) -> list[str]:
    """Return the engines that the study measures: its own, and the reference's."""
    return list(dict.fromkeys([*config["engines"], reference.ENGINE]))


def cases(config: dict) -> list[Case]:
    """Return every case of the study once, sorted; the reference of each batch size and share, and the base, included.

    A reference is measured against itself, which tells what this machine can resolve.
    """
    found = set()
    for entry in config["benchmarks"]:
        for network, precision, engine, batch_size, cores in product(
            entry.get("networks", config["networks"]),
            entry["precisions"],
            entry.get("engines", config["engines"]),
            entry["batch_sizes"],
            entry["cores"],
        ):
            found.add(Case(network, precision, engine, batch_size, str(cores)))
    for batch_size, cores in {reference.BASE, *((case.batch_size, case.cores) for case in found)}:
        found.add(Case(dense_network(config), reference.PRECISION, reference.ENGINE, batch_size, cores))
    return sorted(found)


def data_name(config: dict) -> str:
    """Return the `{data}` wildcard of the study: data set and class set, e.g. `synthetic_speech-commands`."""
    return f"{config['dataset']['name']}-{config['dataset']['class_set']}"


def data_of(config: dict, network: str) -> str:
    """Return the `{data}` wildcard of a network: the study's, or the name of the entry that has its file."""
    networks = config["networks"]
    return chain(networks, network)[-1] if from_file(networks, network) else data_name(config)


def trainer(config: dict, network: str) -> str:
    """Return the rule that makes a network: `prune` if it starts from another one, `train` if from initialisation.

    A network from a file, pruned or not, is made by `import_network`.
    """
    if from_file(config["networks"], network):
        return "import_network"
    return "prune" if "start" in config["networks"][network] else "train"


def trained_networks(config: dict) -> list[str]:
    """Return the networks that this study trains, in the order of the configuration."""
    return [name for name in config["networks"] if not from_file(config["networks"], name)]


def file_networks(config: dict) -> list[str]:
    """Return the networks that come from files, pruned ones included, in the order of the configuration."""
    return [name for name in config["networks"] if from_file(config["networks"], name)]


def seeds(config: dict, network: str) -> list[int]:
    """Return the seeds that a network is trained with: its own, or those of the study. A file counts as one."""
    if from_file(config["networks"], network):
        return config["seeds"][:1]
    return config["networks"][network].get("seeds", config["seeds"])


def training_spec(config: dict, network: str) -> dict:
    """Return what a network is and what its entry says of its training.

    Another list of seeds changes nothing for those it had.
    """
    own = {key: value for key, value in config["networks"][network].items() if key != "seeds"}
    first = config["networks"][chain(config["networks"], network)[-1]]
    return {**{key: first[key] for key in (*ARCHITECTURE, *FILE_KEYS) if key in first}, **own}


def architecture(config: dict, network: str) -> str | None:
    """Return the architecture of the package that a network has; None if it has a class of its own or is a file."""
    spec = training_spec(config, network)
    return None if {"module", "onnx"} & spec.keys() else spec.get("architecture", DEFAULT_ARCHITECTURE)


def architectures(config: dict) -> list[str]:
    """Return every architecture that networks of the study have."""
    return sorted({name for network in config["networks"] if (name := architecture(config, network))})


def teacher(config: dict, network: str) -> str | None:
    """Return the network whose opinions `network` learns, if any.

    It is the one that its entry names; else, for a pruned network, the one at the beginning of its chain of `start`.
    """
    networks = config["networks"]
    if "teacher" in networks[network] or "start" not in networks[network]:
        return networks[network].get("teacher")
    return chain(networks, network)[-1]


def dense_network(config: dict) -> str | None:
    """Return the network that all gains refer to, or None: neither it nor what it starts from is sparse in any way.

    It is one that the study trains; a study that trains none has files.
    """
    networks = config["networks"]

    def is_dense(name: str) -> bool:
        spec = networks[name]
        own = not {"sparsity", "k_winners", "column_gate"} & spec.keys()
        return own and ("start" not in spec or is_dense(spec["start"]))

    found = [name for name in trained_networks(config) or networks if is_dense(name)]
    return "dense" if "dense" in found else found[0] if found else None


def model_path(config: dict, *, engine: str, precision: str, network: str, seed: int, batch_size: int) -> str | None:
    """Return the model file that `engine` loads for a case, or None if it has no model of that precision.

    A network from a file has none of the forms that are made from a trained network in PyTorch.
    """
    template = engine_class(engine).models.get(precision)
    file = from_file(config["networks"], network)
    if template is None or (file and template.split("/")[0] in FROM_CHECKPOINT):
        return None
    return "results/" + template.format(
        trained=trainer(config, network),
        exported="fix_batch_size" if file else "export_onnx",
        data=data_of(config, network),
        network=network,
        seed=seed,
        batch_size=batch_size,
    )


def environment_file(environment: str) -> Path:
    """Return the file that an environment is made from."""
    return ROOT / "envs" / f"{environment}.yaml"


@cache
def environment_prefix(environment: str) -> str:
    """Return the folder of the virtual environment made from `envs/{environment}.yaml`.

    It is keyed by the content of the file and of its post-deploy script: a changed file is a new environment.
    """
    env_file = environment_file(environment)
    content = env_file.read_bytes()
    post_deploy = env_file.with_suffix(".post-deploy.sh")
    if post_deploy.exists():
        content += post_deploy.read_bytes()
    return f".envs/{environment}-{hashlib.sha256(content).hexdigest()[:8]}"


@cache
def sources(*programs: str) -> list[str]:
    """Return the files of `programs` and of every module of ours that they import, directly or not.

    Args:
        programs: names of files below `workflow/scripts/`, without `.py`; `/` leads into the package.
    """
    found: set[Path] = set()
    waiting = [SCRIPTS / f"{program}.py" for program in programs]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [file for module in imported_modules(path) for file in _files_of(module)]
    return sorted(str(path.relative_to(ROOT)) for path in found)


@cache
def fingerprint(*programs: str, files: tuple[str, ...] = ()) -> str:
    """Return what stands for the content of `programs`, of all they import, and of `files`, e.g. `train 1f0c29ab`.

    As a parameter of a rule it makes the rule's jobs run again when their code changes, and only then: it is the same
    wherever the checkout lies and whenever its files were written, as inputs of a rule would not be.

    Args:
        programs: as in `sources`.
        files: further files that a job reads, from the root of the checkout.
    """
    digest = hashlib.sha256()
    for path in [*sources(*programs), *sorted(files)]:
        digest.update(f"{path}\0{hashlib.sha256((ROOT / path).read_bytes()).hexdigest()}\n".encode())
    return " ".join([*programs[:1], digest.hexdigest()[:8]])


def imported_modules(path: Path) -> set[str]:
    """Return every name that a program or module of ours may import as a module, with dots."""
    package = path.relative_to(SCRIPTS if path.is_relative_to(SCRIPTS) else ROOT).parent.parts
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            modules |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return modules


def _files_of(module: str) -> list[Path]:
    """Return the files that Python runs to import `module`: its own and its packages', if they are ours."""
    parts = module.split(".")
    candidates = [
        path
        for folder in (SCRIPTS, ROOT)
        for path in (
            folder / Path(*parts).with_suffix(".py"),
            *(folder / Path(*parts[: count + 1]) / "__init__.py" for count in range(len(parts))),
        )
    ]
    return [path for path in candidates if path.exists()]

"""What an entry of the configuration's `networks:` says a network is: an architecture, a module, or a file.

Standard library only, like `sparsity_patterns`.
"""

import math
from pathlib import Path

from sparsemark.files import InputError

#: The keys that say what a network is. One that starts from another has that one's.
ARCHITECTURE = ("architecture", "module", "width")
#: The keys of a network that comes from a file, and of one that is such a network with its smallest weights removed.
FILE_KEYS = ("onnx", "sha256", "data", "range", "unit")
WHAT_IF_KEYS = ("start", "sparsity", "pattern")


def architectures() -> list[str]:
    """Return the names of the architectures of the package."""
    return sorted(path.stem for path in Path(__file__).with_name("architectures").glob("[!_]*.py"))


def chain(networks: dict[str, dict], network: str) -> list[str]:
    """Return the network, the one it starts from, and so on, to the one that starts from none.

    What is wrong with a `start` is another check's to say: at an unknown one, or in a circle, the chain ends.
    """
    names = [network]
    while (start := networks[names[-1]].get("start")) in networks and start not in names:
        names.append(start)
    return names


def from_file(networks: dict[str, dict], network: str) -> bool:
    """Whether a network, or the one at the beginning of its chain, comes from a file."""
    return "onnx" in networks[chain(networks, network)[-1]]


def is_address(text: str) -> bool:
    """Whether an `onnx` names something to download."""
    return text.startswith(("http://", "https://", "file://"))


def check_entries(networks: dict[str, dict], where: str) -> None:
    """Check what all entries say that their networks are.

    Args:
        networks: the entries by name; every `start` and `teacher` exists, and none goes in a circle.
        where: name of the section for the message, such as `config.yaml: networks`.

    Raises:
        InputError: one sentence that names the key and what was expected.
    """
    for name, spec in networks.items():
        if "onnx" in spec:
            _check_file(spec, f"{where}.{name}")
        elif from_file(networks, name):
            _only(spec, WHAT_IF_KEYS, f"{where}.{name}", "a network from a file is not trained")
            if "sparsity" not in spec:
                raise InputError(f"{where}.{name}: missing key 'sparsity' (what is left of the file's weights)")
        else:
            _check_trained(spec, networks, f"{where}.{name}")


def _only(spec: dict, keys: tuple[str, ...], where: str, why: str) -> None:
    for key in spec:
        if key not in keys:
            raise InputError(f"{where}: unexpected key {key!r} ({why}: expected some of {', '.join(keys)})")


def _is_file(text: object) -> bool:
    return isinstance(text, str) and Path(text).is_file()


def _check_file(spec: dict, where: str) -> None:
    _only(
        spec, FILE_KEYS, where, "a network from a file is taken as it is; another entry that starts from it prunes it"
    )
    if not is_address(spec["onnx"]) and not _is_file(spec["onnx"]):
        raise InputError(f"{where}.onnx: expected an ONNX file that exists or an address, got {spec['onnx']!r}")
    if "sha256" in spec and not is_address(spec["onnx"]):
        raise InputError(f"{where}.sha256: expected an address as 'onnx', whose download it checks")
    if ("data" in spec) == ("range" in spec):
        raise InputError(
            f"{where}: expected either 'data', an npz file with samples, or 'range', the bounds of random ones"
        )
    if "data" in spec and not _is_file(spec["data"]):
        raise InputError(f"{where}.data: expected an npz file that exists, got {spec['data']!r}")
    if "range" in spec:
        low, high = spec["range"]
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"{where}.range: expected two numbers, the lower one first, got {spec['range']}")


def _check_trained(spec: dict, networks: dict[str, dict], where: str) -> None:
    for key in ("sha256", "data", "range", "unit"):
        if key in spec:
            raise InputError(f"{where}.{key}: expected 'onnx' beside it, it belongs to a network from a file")
    given = [key for key in ARCHITECTURE if key in spec]
    if given and "start" in spec:
        raise InputError(f"{where}.{given[0]}: a network that starts from another one has its architecture")
    if {"architecture", "module"} <= spec.keys():
        raise InputError(f"{where}: expected 'architecture' or 'module', not both")
    if "architecture" in spec and spec["architecture"] not in architectures():
        raise InputError(
            f"{where}.architecture: {spec['architecture']!r} is unknown (expected one of {', '.join(architectures())})"
        )
    if "module" in spec and not _is_file(spec["module"].rpartition(":")[0]):
        raise InputError(f"{where}.module: expected FILE.py:CLASS with a file that exists, got {spec['module']!r}")
    if "teacher" in spec and from_file(networks, spec["teacher"]):
        raise InputError(f"{where}.teacher: expected a network that this study trains, {spec['teacher']!r} is a file")

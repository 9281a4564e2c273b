"""Networks by their entries in the configuration: built, checked, saved and read again.

An entry names an architecture of the package, `architecture: ds_cnn`, or a class of its own, `module: FILE.py:CLASS`,
which is a `torch.nn.Module` that takes the number of classes and turns features, [batch, 1, 32, 32], into logits,
[batch, classes]. Without either it is the study's own, the GSC CNN.
"""

import importlib
import importlib.util
import inspect
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from sparsemark.files import InputError, atomic_path
from sparsemark.networks.activation_sparsity import KWinners
from sparsemark.networks.entries import architectures
from sparsemark.networks.layers import INPUT_SHAPE, activations_of, layers_of, run_sample
from sparsemark.networks.sparsity_patterns import DEFAULT_ARCHITECTURE, check_layers

#: Keys of an entry that a network's class takes as arguments, if it knows them.
OPTIONS = ("width", "column_gate")


def network_class(spec: dict) -> type[nn.Module]:
    """Return the class that an entry names.

    Raises:
        InputError: there is no such architecture, file or class, or the file fails to run.
    """
    if "module" not in spec:
        name = spec.get("architecture", DEFAULT_ARCHITECTURE)
        if name not in architectures():
            raise InputError(f"architecture: {name!r} is unknown (expected one of {', '.join(architectures())})")
        return importlib.import_module(f"sparsemark.networks.architectures.{name}").Network
    file, _, name = spec["module"].rpartition(":")
    if not file or not Path(file).is_file():
        raise InputError(f"module: expected FILE.py:CLASS with a file that exists, got {spec['module']!r}")
    # Under a name of its own: the file may be called like any module.
    found = importlib.util.spec_from_file_location(f"own_network_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:  # whatever a file of somebody else's may raise
        raise InputError(f"module: {file} fails when it is imported ({type(error).__name__}: {error})") from error
    kind = getattr(module, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise InputError(f"module: expected a class {name!r} in {file} that is a torch.nn.Module")
    return kind


def build_network(spec: dict, classes: int) -> nn.Module:
    """Return an initialised network for `classes` classes, as one entry of the configuration's `networks:` says.

    Args:
        spec: of its keys, `architecture` or `module`, `width`, `column_gate` and `k_winners` (density kept, per
            activation) shape the network; the others concern its training.
        classes: number of classes.

    Raises:
        InputError: an unknown architecture, option or activation, or a value that cannot be.
    """
    kind = network_class(spec)
    options = {key: spec[key] for key in OPTIONS if spec.get(key) is not None}
    accepted = inspect.signature(kind).parameters
    for key in options:
        if key not in accepted:
            raise InputError(f"{key}: {_name(spec)} has no such option")
    try:
        model = kind(classes, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        key = "module" if "module" in spec else "architecture"
        raise InputError(f"{key}: {_name(spec)} cannot be made for {classes} classes ({error})") from error
    if k_winners := spec.get("k_winners"):
        put_k_winners(model, k_winners)
    return model


def _name(spec: dict) -> str:
    return spec.get("module") or spec.get("architecture", DEFAULT_ARCHITECTURE)


def put_k_winners(model: nn.Module, densities: dict[str, float]) -> None:
    """Put k-winners in the place of ReLUs of `model`, by their names.

    Raises:
        InputError: there is no such ReLU, or a density that cannot be.
    """
    shapes = activations_of(model)
    for name, density in densities.items():
        if name not in shapes:
            raise InputError(f"k_winners: activation {name!r} does not exist (expected one of {', '.join(shapes)})")
        if not 0 < density <= 1:
            raise InputError(f"k_winners.{name}: expected a density above 0 and up to 1, got {density!r}")
        units = torch.Size(shapes[name]).numel()
        if round(density * units) == 0:
            raise InputError(f"k_winners.{name}: a density of {density} leaves 0 winners of {units} units")
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, KWinners(shapes[name], density))


def check_network(spec: dict, classes: int, where: str) -> nn.Module:
    """Return the network of an entry after checking everything that an entry may ask of its network.

    Raises:
        InputError: one sentence that names the entry (`where`), the key and what was expected.
    """
    try:
        model = build_network(spec, classes)
        found = tuple(run_sample(model).shape)
    except InputError as error:
        raise InputError(f"{where}.{error}") from error
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where}: the network fails on one sample of shape {INPUT_SHAPE} ({reason})") from error
    if found != (1, classes):
        raise InputError(f"{where}: expected logits of shape {(1, classes)} for one sample, got {found}")
    check_layers(spec, layers_of(model), where)
    return model


def save_network(path: Path, model: nn.Module, *, network: str, spec: dict, classes: list[str]) -> None:
    """Write a trained network with what is needed to build it again."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with atomic_path(path) as partial:
        torch.save({"network": network, "spec": spec, "classes": classes, "state_dict": state}, partial)


def load_network(path: Path) -> tuple[nn.Module, dict]:
    """Read a `model.pt`; return the network, ready for inference, and its record {network, spec, classes}.

    Raises:
        InputError: the file is missing or isn't a network of this workflow.
    """
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
        model = build_network(record["spec"], len(record["classes"]))
        model.load_state_dict(record.pop("state_dict"))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: expected a network saved by this workflow ({reason})") from error
    return model.eval(), record

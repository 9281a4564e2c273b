"""What a configuration may say: every error of a configuration is worded here, or in the check of a room it calls.

The schema (`workflow/schemas/config.schema.yaml`) tells the keys, their types and bounds; what it can't tell is below.
"""

from pathlib import Path

import jsonschema
import yaml

from sparsemark.engines import engine_names
from sparsemark.files import InputError
from sparsemark.networks.sparsity_patterns import check_spec
from sparsemark.study import seeds

#: The keys of a network's entry that name another network, which is trained first.
DEPENDENCIES = {"start", "teacher"}
SCHEMA = Path(__file__).parents[2] / "schemas/config.schema.yaml"


def _location(path: list) -> str:
    return ".".join(str(part) for part in path) or "the top level"


def _explain(error: jsonschema.ValidationError) -> str:
    """One sentence for a schema error: which key, what was found, what was expected."""
    where = _location(list(error.absolute_path))
    found = error.instance
    match error.validator:
        case "additionalProperties":
            allowed = error.schema.get("properties", {})
            unknown = ", ".join(repr(key) for key in found if key not in allowed)
            return f"{where}: unknown key {unknown} (expected one of {', '.join(allowed)})"
        case "required":
            missing = ", ".join(repr(key) for key in error.validator_value if key not in found)
            return f"{where}: missing key {missing}"
        case "type":
            return f"{where}: {found!r} is not of type {error.validator_value}"
        case "enum":
            return f"{where}: {found!r} is unknown (expected one of {', '.join(map(str, error.validator_value))})"
        case "minimum":
            return f"{where}: {found!r} is too small (expected at least {error.validator_value})"
        case "exclusiveMinimum":
            return f"{where}: {found!r} is too small (expected more than {error.validator_value})"
        case "minItems" | "minProperties":
            return f"{where}: empty (expected at least {error.validator_value} entry)"
        case _:
            return f"{where}: {error.message}"


def validate(config: dict, source: str = "config.yaml") -> None:
    """Check a configuration against its schema and against what it refers to.

    Raises:
        InputError: one sentence that names `source`, the key and what was expected.
    """
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    # The first error in the order of the file, so that the message does not change from run to run.
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        raise InputError(f"{source}: {_explain(errors[0])}")

    def known(names: list[str], allowed: list[str], key: str) -> None:
        for name in names:
            if name not in allowed:
                raise InputError(f"{source}: {key}: {name!r} is unknown (expected one of {', '.join(allowed)})")

    known([config["dataset"]["name"]], list(config["datasets"]), "dataset.name")
    for name, entry in config["datasets"].items():
        if "train" not in entry and name != "synthetic_speech":
            raise InputError(f"{source}: datasets.{name}: missing key 'train' (expected the training archive's url)")
    known(config["engines"], engine_names(), "engines")
    for number, entry in enumerate(config["benchmarks"]):
        known(entry.get("networks", []), list(config["networks"]), f"benchmarks.{number}.networks")
        known(entry.get("engines", []), config["engines"], f"benchmarks.{number}.engines")
    for name, spec in config["networks"].items():
        check_spec(spec, f"{source}: networks.{name}")
        if (measured := config["seeds"][0]) not in seeds(config, name):
            raise InputError(f"{source}: networks.{name}.seeds: expected {measured} in it, the seed that is measured")
        for key in sorted(DEPENDENCIES & spec.keys()):
            known([spec[key]], list(config["networks"]), f"networks.{name}.{key}")
    for name in config["networks"]:
        _check_dependencies(config["networks"], [name], source)


def _check_dependencies(networks: dict, chain: list[str], source: str) -> None:
    """Check that no network needs, over others, itself; `chain` is a way from a network to one that it needs."""
    for key in sorted(DEPENDENCIES & networks[chain[-1]].keys()):
        needed = networks[chain[-1]][key]
        if needed in chain:
            circle = " -> ".join([*chain[chain.index(needed) :], needed])
            raise InputError(f"{source}: networks.{chain[-1]}.{key}: {circle} goes in a circle")
        _check_dependencies(networks, [*chain, needed], source)

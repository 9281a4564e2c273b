"""What a configuration may say: every error of a configuration is worded here, or in the check of a room it calls.

The schema (`workflow/schemas/config.schema.yaml`) has the keys, their types and bounds; what hangs together is here.
"""

import math
import re
from pathlib import Path

import jsonschema
import yaml

from sparsemark.data.dataset_settings import SYNTHETIC, settings_of
from sparsemark.engines import engine_names
from sparsemark.files import InputError
from sparsemark.networks.entries import check_entries
from sparsemark.networks.sparsity_patterns import check_spec
from sparsemark.study import dense_network, seeds

#: The keys of a network's entry that name another network, which is trained first.
DEPENDENCIES = {"start", "teacher"}
SCHEMA = Path(__file__).parents[2] / "schemas/config.schema.yaml"
#: What YAML 1.2 reads as a number; YAML 1.1, which is read here, takes `1e-3` for text.
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def resolve(config: dict, source: str = "config.yaml") -> dict:
    """Return the configuration that the study runs with: checked, and without what it says of absent things.

    Numbers that YAML read as text are numbers. Networks that are null are gone, and benchmarks lose them, as well as
    engines that `engines` doesn't list.

    Args:
        config: as it was read, overlays merged.
        source: its files, for the message.

    Raises:
        InputError: one sentence that names `source`, the key and what was expected.
    """
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    try:
        _check_keys(config, [])
        config, left_out = _without_null_networks(_with_numbers(config, schema, schema["$defs"]))
        _check_schema(config, schema)
        config = config | {"benchmarks": _present(config, left_out)}
        _check_references(config)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return config


def _location(path: list) -> str:
    return ".".join(str(part) for part in path) or "the top level"


def _known(names: list[str], allowed: list[str], key: str) -> None:
    for name in names:
        if name not in allowed:
            raise InputError(f"{key}: {name!r} is unknown (expected one of {', '.join(allowed)})")


# ------------------------------------------------------------------------------------------------- what YAML made of it


def _check_keys(value: object, path: list) -> None:
    """Check that every key is text: YAML takes `on:` or `80:` for something else."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise InputError(f"{_location(path)}: key {key!r} is no text (write it in quotes)")
            _check_keys(entry, [*path, key])
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            _check_keys(entry, [*path, number])


def target(schema: dict, definitions: dict) -> dict:
    """Return what a part of the schema refers to by `$ref`, or itself; what stands beside the reference comes first."""
    if "$ref" not in schema:
        return schema
    found = {"$defs": definitions}
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found | {key: value for key, value in schema.items() if key != "$ref"}


def _with_numbers(value: object, schema: dict, definitions: dict) -> object:
    """Return a copy of `value` in which a number has the type that the schema asks for."""
    schema = target(schema, definitions)
    if isinstance(value, dict):
        of_key, of_others = schema.get("properties", {}), schema.get("additionalProperties") or {}
        return {key: _with_numbers(entry, of_key.get(key, of_others), definitions) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_numbers(entry, schema.get("items", {}), definitions) for entry in value]
    types = schema.get("type", [])
    if "number" not in types and "integer" not in types:
        return value
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        return int(value)
    return value


def _without_null_networks(config: dict) -> tuple[dict, set[str]]:
    """Return the configuration without the networks that are null, and their names."""
    networks = config.get("networks")
    if not isinstance(networks, dict):
        return config, set()
    kept = {name: spec for name, spec in networks.items() if spec is not None}
    return config | {"networks": kept}, networks.keys() - kept.keys()


# ----------------------------------------------------------------------------------------------------------- the schema


def _is_finite(_: object, value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    )


#: JSON Schema's validator, to which .nan and .inf are no numbers.
Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite),
)


def _check_schema(config: dict, schema: dict) -> None:
    # The first error in the order of the file, so that the message does not change from run to run.
    errors = sorted(Validator(schema).iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        raise InputError(_explain(errors[0]))


def _explain(error: jsonschema.ValidationError) -> str:
    """One sentence for a schema error: which key, what was found, what was expected."""
    where = _location(list(error.absolute_path))
    found, wanted = error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            allowed = error.schema.get("properties", {})
            unknown = ", ".join(repr(key) for key in found if key not in allowed)
            return f"{where}: unknown key {unknown} (expected one of {', '.join(allowed)})"
        case "required":
            missing = ", ".join(repr(key) for key in wanted if key not in found)
            return f"{where}: missing key {missing}"
        case "type" if where == "dataset.class_set":
            return (
                f"{where}: expected the name of a class set (words of your own get a name in an entry of class_sets, "
                'such as `mine: ["yes", "no", stop]`)'
            )
        case "type" if isinstance(found, bool) and "string" in wanted:
            return f"{where}: {found!r} is no text (YAML takes yes, no, on and off for switches: write them in quotes)"
        case "type" if isinstance(found, float) and not math.isfinite(found):
            return f"{where}: {found!r} is no finite number"
        case "type":
            types = wanted if isinstance(wanted, str) else " or ".join(wanted)
            return f"{where}: {found!r} is not of type {types}"
        case "enum":
            return f"{where}: {found!r} is unknown (expected one of {', '.join(map(str, wanted))})"
        case "minimum":
            return f"{where}: {found!r} is too small (expected at least {wanted})"
        case "exclusiveMinimum":
            return f"{where}: {found!r} is too small (expected more than {wanted})"
        case "maximum":
            return f"{where}: {found!r} is too large (expected at most {wanted})"
        case "exclusiveMaximum":
            return f"{where}: {found!r} is too large (expected less than {wanted})"
        case "minItems" | "minProperties" | "minLength":
            return f"{where}: empty (expected at least {wanted} entry)"
        case "uniqueItems":
            return f"{where}: {found!r} has something twice"
        case "pattern":
            return f"{where}: {found!r} is not what was expected: {error.schema['description']}"
        case _:
            return f"{where}: {error.message}"


# -------------------------------------------------------------------------------------------------- what hangs together


def _present(config: dict, left_out: set[str]) -> list[dict]:
    """Return the benchmarks without engines and networks that are absent; entries that lose all of them are gone.

    Args:
        config: fits the schema.
        left_out: the networks that are null.
    """
    _known(config["engines"], engine_names(), "engines")
    kept = []
    for number, entry in enumerate(config["benchmarks"]):
        where, entry = f"benchmarks.{number}", dict(entry)
        for key, known, present in (
            ("networks", [*config["networks"], *sorted(left_out)], config["networks"]),
            ("engines", engine_names(), config["engines"]),
        ):
            if key in entry:
                _known(entry[key], known, f"{where}.{key}")
                entry[key] = [name for name in entry[key] if name in present]
        if entry.get("networks", True) and entry.get("engines", True):
            kept.append(entry)
    if not kept:
        raise InputError("benchmarks: nothing to measure (expected an entry with some of the engines and networks)")
    return kept


def _check_references(config: dict) -> None:
    """Check what the schema can't: names, pairs of values, and what a room knows."""
    _known([config["dataset"]["name"]], list(config["datasets"]), "dataset.name")
    _known([config["dataset"]["class_set"]], list(config["class_sets"]), "dataset.class_set")
    for name, entry in config["datasets"].items():
        settings_of(name, entry.get("settings", {}))
        if name == SYNTHETIC and (superfluous := entry.keys() & {"train", "test"}):
            raise InputError(f"datasets.{name}: unexpected key {min(superfluous)!r} (it is made, not read)")
        if name != SYNTHETIC and "train" not in entry:
            raise InputError(f"datasets.{name}: missing key 'train' (expected the training archive's url)")
    for name, spec in config["networks"].items():
        check_spec(spec, f"networks.{name}")
        if (measured := config["seeds"][0]) not in seeds(config, name):
            raise InputError(f"networks.{name}.seeds: expected {measured} in it, the seed that is measured")
        for key in sorted(DEPENDENCIES & spec.keys()):
            _known([spec[key]], list(config["networks"]), f"networks.{name}.{key}")
    for name in config["networks"]:
        _check_dependencies(config["networks"], [name])
    check_entries(config["networks"], "networks")
    if dense_network(config) is None:
        raise InputError(
            "networks: all are sparse (expected one without sparsity, k_winners and column_gate: the gains refer to it)"
        )
    measuring = config["measuring"]
    shortest = measuring["warmup_s"] + measuring["turn_s"]
    if measuring["timeout_s"] <= shortest:
        raise InputError(
            f"measuring.timeout_s: {measuring['timeout_s']} is too small (expected more than warmup_s and turn_s "
            f"together, {shortest:g})"
        )


def _check_dependencies(networks: dict, chain: list[str]) -> None:
    """Check that no network needs, over others, itself; `chain` is a way from a network to one that it needs."""
    for key in sorted(DEPENDENCIES & networks[chain[-1]].keys()):
        needed = networks[chain[-1]][key]
        if needed in chain:
            circle = " -> ".join([*chain[chain.index(needed) :], needed])
            raise InputError(f"networks.{chain[-1]}.{key}: {circle} goes in a circle")
        _check_dependencies(networks, [*chain, needed])

"""The configuration: what it refuses, and in which words."""

import copy
import json
import re
import runpy
import tomllib
from dataclasses import asdict
from math import inf as INF
from math import nan as NAN

import pytest
import yaml

from sparsemark import configuration, study
from sparsemark.data.dataset_settings import ArchiveSettings, SyntheticSettings
from sparsemark.files import InputError
from sparsemark.networks.training_settings import Settings

SCHEMA = yaml.safe_load(configuration.SCHEMA.read_text())


def read(path):
    return yaml.safe_load((study.ROOT / path).read_text())


CONFIG = read("config.yaml")
#: What the docs write for a name, or a place in a list, that the schema leaves open.
OPEN = {"datasets": "DATASET", "networks": "NETWORK", "benchmarks": "N"}
#: A data set of one's own.
MINE = {"title": "Mine", "train": {"url": "file:///data/mine"}}


def merged(config, overlay):
    """What Snakemake makes of a configuration and an overlay: entries replace entries, lists replace lists."""
    both = copy.deepcopy(config)
    for key, value in overlay.items():
        both[key] = merged(both.get(key) or {}, value) if isinstance(value, dict) else value
    return both


def changed(path, value):
    """The default configuration with one value replaced; `path` is dotted."""
    config = copy.deepcopy(CONFIG)
    *parents, key = path.split(".")
    entry = config
    for parent in parents:
        entry = entry[int(parent)] if isinstance(entry, list) else entry.setdefault(parent, {})
    entry[int(key) if isinstance(entry, list) else key] = value
    return config


def test_the_default_configuration_is_what_it_says():
    assert configuration.resolve(CONFIG) == CONFIG


@pytest.mark.parametrize("overlay", ["config.full.yaml", "tests/workflow/tiny.yaml"])
def test_overlays_are_valid_and_resolving_twice_changes_nothing(overlay):
    config = merged(CONFIG, read(overlay))
    resolved = configuration.resolve(config)
    assert configuration.resolve(resolved) == resolved


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("roundz", 3, r"the top level: unknown key 'roundz' \(expected one of dataset"),
        ("measuring.round", 3, r"measuring: unknown key 'round' \(expected one of rounds"),
        ("networks.dense.sparcity", 0.5, r"networks\.dense: unknown key 'sparcity'"),
        ("measuring.rounds", "three", r"measuring\.rounds: 'three' is not of type integer"),
        ("measuring.turn_s", 0, r"measuring\.turn_s: 0 is too small"),
        ("engines", ["onnxruntime", "warp"], r"engines: 'warp' is unknown \(expected one of .*onnxruntime"),
        ("engines", [], r"engines: empty"),
        ("benchmarks.0.batch_sizes", [0], r"benchmarks\.0\.batch_sizes\.0: 0 is too small \(expected at least 1\)"),
        ("benchmarks.0.precisions", ["fp8"], r"benchmarks\.0\.precisions\.0: 'fp8' is unknown"),
        ("benchmarks.0.networks", ["fence"], r"benchmarks\.0\.networks: 'fence' is unknown"),
        ("benchmarks.0.cores", [2], r"benchmarks\.0\.cores\.0: 2 is unknown \(expected one of 1, all\)"),
        ("dataset.name", "librispeech", r"dataset\.name: 'librispeech' is unknown \(expected one of synthetic_speech"),
        (
            "dataset.class_set",
            "letters",
            r"dataset\.class_set: 'letters' is unknown \(expected one of commands, digits\)",
        ),
        ("networks.pruned", {"start": "dance"}, r"networks\.pruned\.start: 'dance' is unknown"),
        ("networks.dense", {"sparsity": 1.0}, r"networks\.dense\.sparsity: expected .* below, 1, got 1\.0"),
        ("networks.dense", {"sparsity": -0.1}, r"networks\.dense\.sparsity: expected .* got -0\.1"),
        ("networks.dense", {"k_winners": {"act3": 0}}, r"networks\.dense\.k_winners\.act3: expected a density above 0"),
        ("networks.dense", {"width": 0}, r"networks\.dense\.width: 0 is too small"),
        ("networks.pruned.width", 0.5, r"networks\.pruned\.width: a network that starts from another one has its arch"),
        (
            "networks.dense",
            {"architecture": "ds_cnn", "module": "net.py:Net"},
            r"networks\.dense: expected 'architecture' or 'module', not both",
        ),
        (
            "networks.dense",
            {"module": "no_such.py:Net"},
            r"networks\.dense\.module: .* a file that exists, got 'no_such",
        ),
        ("networks.dense", {"seeds": [2]}, r"networks\.dense\.seeds: expected 1 in it, the seed that is measured"),
        ("networks.dense", {"start": "dense"}, r"networks\.dense\.start: dense -> dense goes in a circle"),
        (
            "networks.dense",
            {"teacher": "pruned"},
            r"networks\.pruned\.start: dense -> pruned -> dense goes in a circle",
        ),
        ("networks.sparse_dense", {"teacher": "dance"}, r"networks\.sparse_dense\.teacher: 'dance' is unknown"),
        # Words and names that YAML takes for something else, or that make no path.
        ("dataset.class_set", ["yes", "no"], r"dataset\.class_set: expected the name of a class set \(.*`mine: "),
        ("class_sets.mine", [True, False, "stop"], r"class_sets\.mine\.0: True is no text \(.*write them in quotes\)"),
        ("class_sets.mine", ["stop", "unknown"], r"class_sets\.mine\.1: 'unknown' is not .* other than unknown"),
        ("class_sets.mine", ["stop", "../go"], r"class_sets\.mine\.1: '\.\./go' is not what was expected: a word"),
        ("class_sets.mine", ["stop", "stop"], r"class_sets\.mine: \['stop', 'stop'\] has something twice"),
        ("class_sets.mine", [], r"class_sets\.mine: empty"),
        ("class_sets.my-own", ["stop"], r"class_sets: 'my-own' is not what was expected: a name of lower-case"),
        ("class_sets", {True: ["stop"]}, r"class_sets: key True is no text \(write it in quotes\)"),
        ("networks.80", {}, r"networks: '80' is not what was expected: a name"),
        ("networks", {80: {}}, r"networks: key 80 is no text"),
        ("networks.Dense", {}, r"networks: 'Dense' is not what was expected: a name"),
        ("datasets.mine/x", {"title": "X"}, r"datasets: 'mine/x' is not what was expected: a name"),
        # Numbers that are none, or that can only fail, or hang, later.
        ("training.learning_rate", NAN, r"training\.learning_rate: nan is no finite number"),
        ("training.learning_rate", INF, r"training\.learning_rate: inf is no finite number"),
        ("training.epochs", INF, r"training\.epochs: inf is no finite number"),
        ("training.learning_rate", "fast", r"training\.learning_rate: 'fast' is not of type number"),
        ("training.learning_rate", 2, r"training\.learning_rate: 2 is too large"),
        ("training.epochs", 2.5, r"training\.epochs: 2\.5 is not of type integer"),
        ("training.epochs", True, r"training\.epochs: True is not of type integer"),
        ("training.batch_size", 10**6, r"training\.batch_size: 1000000 is too large \(expected at most 4096\)"),
        ("networks.dense.epochs", 0, r"networks\.dense\.epochs: 0 is too small"),
        (
            "networks.dense",
            {"sparsity": NAN},
            r"networks\.dense\.sparsity: nan is no finite",
        ),
        ("networks.dense", {"pattern": ["block4"]}, r"networks\.dense\.pattern: \['block4'\] is not of type string"),
        ("seeds", [1, 1], r"seeds: \[1, 1\] has something twice"),
        ("seeds", [-1], r"seeds\.0: -1 is too small"),
        ("seeds", [2**32], r"seeds\.0: 4294967296 is too large"),
        ("seeds", [10**400], r"seeds\.0: 1000.* is too large"),
        ("benchmarks.0.batch_sizes", [1, 1.0], r"benchmarks\.0\.batch_sizes: \[1, 1\] has something twice"),
        ("benchmarks.0.batch_sizes", [10**6], r"benchmarks\.0\.batch_sizes\.0: 1000000 is too large"),
        ("benchmarks.0.cores", [True], r"benchmarks\.0\.cores\.0: True is"),
        (
            "measuring.timeout_s",
            0.1,
            r"measuring\.timeout_s: 0\.1 is too small \(expected more than warmup_s and turn_s",
        ),
        ("measuring.memory_limit_gib", 0.01, r"measuring\.memory_limit_gib: 0\.01 is too small"),
        ("quantization.calibration_clips", 0, r"quantization\.calibration_clips: 0 is too small"),
        ("tuning.tvm_trials", 1e300, r"tuning\.tvm_trials: 1000.* is too large"),
        # Data sets.
        (
            "datasets.synthetic_speech.settings.voices",
            0,
            r"datasets\.synthetic_speech\.settings\.voices: 0 is too small",
        ),
        (
            "datasets.synthetic_speech.settings.voices",
            641,
            r"datasets\.synthetic_speech\.settings\.voices: 641 is too large",
        ),
        (
            "datasets.synthetic_speech.settings.snr_db",
            NAN,
            r"datasets\.synthetic_speech\.settings\.snr_db: nan is no finite",
        ),
        ("datasets.synthetic_speech.settings.voice", 1, r"datasets\.synthetic_speech\.settings: unknown key 'voice'"),
        (
            "datasets.synthetic_speech.settings.damaged",
            "skip",
            r"datasets\.synthetic_speech\.settings: unknown key 'damaged'",
        ),
        (
            "datasets.synthetic_speech.train",
            {"url": "file:///a"},
            r"datasets\.synthetic_speech: unexpected key 'train'",
        ),
        ("datasets.mine", {"title": "Mine"}, r"datasets\.mine: missing key 'train'"),
        ("datasets.mine", MINE | {"settings": {"voices": 3}}, r"datasets\.mine\.settings: unknown key 'voices'"),
        (
            "datasets.mine",
            MINE | {"settings": {"damaged": "ignore"}},
            r"datasets\.mine\.settings\.damaged: 'ignore' is unknown",
        ),
        (
            "datasets.mine",
            MINE | {"train": {"url": "file://data/a.tar.gz"}},
            r"datasets\.mine\.train\.url: .* an address that",
        ),
        (
            "datasets.mine",
            MINE | {"train": {"url": "/data/a.tar.gz"}},
            r"datasets\.mine\.train\.url: .* an address that",
        ),
        (
            "datasets.mine",
            MINE | {"train": {"url": "http://ü/ä.tar"}},
            r"datasets\.mine\.train\.url: .* an address that",
        ),
        (
            "datasets.mine",
            MINE | {"train": {"url": "http://a/b", "sha256": "12"}},
            r"datasets\.mine\.train\.sha256: '12' is not",
        ),
        # What is left of a study.
        ("networks", {"pruned": {"sparsity": 0.5}}, r"benchmarks\.0\.networks: 'dense' is unknown"),
        (
            "networks",
            {"dense": {"sparsity": 0.5}} | dict.fromkeys(CONFIG["networks"].keys() - {"dense"}),
            r"networks: all are sparse",
        ),
        ("networks", dict.fromkeys(CONFIG["networks"]), r"networks: empty"),
        ("networks.n_of_64", None, r"networks\.dual\.start: 'n_of_64' is unknown"),
    ],
)
def test_a_wrong_configuration_is_one_clear_sentence(path, value, message):
    with pytest.raises(InputError, match=rf"^my\.yaml: {message}") as caught:
        configuration.resolve(changed(path, value), "my.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    config = copy.deepcopy(CONFIG)
    del config["measuring"]["rounds"]
    with pytest.raises(InputError, match="measuring: missing key 'rounds'"):
        configuration.resolve(config)


@pytest.mark.parametrize(
    ("path", "written", "meant"),
    [
        ("training.learning_rate", "1e-3", 0.001),
        ("training.learning_rate", "2.5E-3", 0.0025),
        ("networks.dense.learning_rate", "1e-3", 0.001),
        ("networks.pruned.sparsity", "9e-1", 0.9),
        ("networks.pruned.sparsity", {"conv2": "9e-1"}, {"conv2": 0.9}),
        ("training.epochs", 6.0, 6),
        ("training.epochs", "1e1", 10),
        ("seeds", ["1", 2.0], [1, 2]),
        ("benchmarks.0.cores", [1.0, "all"], [1, "all"]),
        ("datasets.synthetic_speech.settings.snr_db", "1e1", 10.0),
    ],
)
def test_a_number_is_what_it_plainly_is(path, written, meant):
    # As PyYAML reads it: YAML 1.1 takes 1e-3, without a dot, for text.
    resolved = configuration.resolve(changed(path, written))
    expected = changed(path, meant)
    assert json.dumps(resolved) == json.dumps(expected)


def test_text_stays_text():
    resolved = configuration.resolve(changed("datasets.synthetic_speech.title", "1e3"))
    assert resolved["datasets"]["synthetic_speech"]["title"] == "1e3"


@pytest.mark.parametrize("engines", [["onnxruntime", "dualsparse"], ["dualsparse"], ["pytorch_eager"], ["tvm", "jax"]])
def test_fewer_engines_need_no_other_edit(engines):
    resolved = configuration.resolve(CONFIG | {"engines": engines})
    found = study.cases(resolved)
    # All that the default measures in these engines, and what they take turns with.
    own = [case for case in found if case.engine in engines]
    assert own == [case for case in study.cases(CONFIG) if case.engine in engines]
    references = {(case.network, case.precision, case.engine) for case in found if case.engine not in engines}
    assert references <= {("dense", "fp32", "onnxruntime")}
    assert {(case.batch_size, case.cores) for case in found} <= {(size, n) for size in (1, 64) for n in ("1", "all")}


def test_a_typo_among_the_engines_of_a_benchmark_is_still_an_error():
    config = changed("benchmarks.5.engines", ["deepsparse", "dualspares"]) | {"engines": ["dualsparse"]}
    with pytest.raises(InputError, match=r"benchmarks\.5\.engines: 'dualspares' is unknown"):
        configuration.resolve(config)


def test_engines_that_no_benchmark_measures_are_an_error():
    sweep = {"engines": ["tvm"], "precisions": ["fp32"], "batch_sizes": [1], "cores": [1]}
    with pytest.raises(InputError, match="benchmarks: nothing to measure"):
        configuration.resolve(CONFIG | {"engines": ["jax"], "benchmarks": [sweep]})


def test_an_overlay_drops_a_network():
    resolved = configuration.resolve(merged(CONFIG, {"networks": {"dual": None}}))
    assert list(resolved["networks"]) == [name for name in CONFIG["networks"] if name != "dual"]
    assert study.cases(resolved) == [case for case in study.cases(CONFIG) if case.network != "dual"]


def test_a_network_added_by_one_entry_is_measured():
    """The README's example."""
    text = (study.ROOT / "README.md").read_text()
    added = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    resolved = configuration.resolve(merged(CONFIG, added))
    (name,) = added["networks"]
    measured = {case.engine for case in study.cases(resolved) if case.network == name}
    assert measured == {"deepsparse", "dualsparse"}


def test_the_network_that_gains_refer_to_is_one_without_any_sparsity():
    networks = {"gated": {"column_gate": 2}, "tuned": {"start": "full", "epochs": 2}, "full": {"epochs": 3}}
    assert study.dense_network({"networks": networks}) == "tuned"
    assert study.dense_network({"networks": networks | {"dense": {}}}) == "dense"
    assert study.dense_network({"networks": {"gated": {"column_gate": 2}}}) is None


def keys(schema, value=None, path=""):
    """Every key of the schema below `schema`, with its dotted path and what the default configuration says there."""
    schema = configuration.target(schema, SCHEMA["$defs"])
    for name, entry in schema.get("properties", {}).items():
        below = value.get(name, ...) if isinstance(value, dict) else ...
        yield f"{path}{name}", entry, below
        yield from keys(entry, below, f"{path}{name}.")
    for nested in (schema.get("additionalProperties"), schema.get("items")):
        if isinstance(nested, dict):
            yield from keys(nested, ..., f"{path}*.")


def test_every_key_has_a_type_and_a_description():
    for path, entry, _ in keys(SCHEMA):
        resolved = configuration.target(entry, SCHEMA["$defs"])
        assert {"type", "enum"} & resolved.keys(), path
        assert {**resolved, **entry}.get("description"), path


def test_defaults_are_those_of_the_default_configuration_and_of_the_programs():
    of_programs = {
        "training.": asdict(Settings()),
        "datasets.*.settings.": asdict(SyntheticSettings()) | asdict(ArchiveSettings()),
    }
    checked = 0
    for path, entry, value in keys(SCHEMA, CONFIG):
        default = configuration.target(entry, SCHEMA["$defs"]).get("default", ...)
        default = entry.get("default", default)
        if value is ...:
            value = next(
                (
                    known.get(path.removeprefix(start), ...)
                    for start, known in of_programs.items()
                    if path.startswith(start)
                ),
                ...,
            )
        if default is not ... and value is not ...:
            assert default == value, path
            checked += 1
    assert checked > 20


def test_the_table_in_the_docs_is_made_from_the_schema():
    program = runpy.run_path(str(study.ROOT / "docs/configuration_table.py"))
    text = program["PAGE"].read_text(encoding="utf-8")
    assert program["page"](text) == text, "run: python docs/configuration_table.py"
    listed = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    for path, _, _ in keys(SCHEMA):
        name = re.sub(r"\b(datasets|networks|benchmarks)\.\*", lambda found: f"{found[1]}.{OPEN[found[1]]}", path)
        own_training = name.startswith("networks.NETWORK.") and name.split(".")[2] in asdict(Settings())
        assert name in listed or own_training, path


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((study.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'__version__ = "{version}"' in (study.ROOT / "dualsparse/__init__.py").read_text()
    assert read("CITATION.cff")["version"] == version
    assert re.search(r"^## (\S+)", (study.ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version


def test_the_workflow_catalogue_finds_what_it_reads():
    """As the generator of the Snakemake workflow catalogue has it (scripts/generate-catalog.py, in 2025)."""
    usage = read(".snakemake-workflow-catalog.yml")["usage"]
    assert isinstance(usage["report"], bool)
    assert any(usage["software-stack-deployment"].values())
    assert (study.ROOT / "config/README.md").read_text().startswith("#")
    # Snakedeploy copies the folder: a deployed workflow is configured by config/config.yaml.
    assert read("config/config.yaml") == CONFIG
    readme = (study.ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme and "workflow" in readme
    assert configuration.SCHEMA == study.ROOT / "workflow/schemas/config.schema.yaml"

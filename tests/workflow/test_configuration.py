"""The configuration: what it refuses, and in which words."""

import copy

import pytest
import yaml

from sparsemark import configuration, study
from sparsemark.files import InputError

CONFIG = yaml.safe_load((study.ROOT / "config.yaml").read_text())


def changed(path, value):
    """The default configuration with one value replaced; `path` is dotted."""
    config = copy.deepcopy(CONFIG)
    *parents, key = path.split(".")
    entry = config
    for parent in parents:
        entry = entry[int(parent)] if isinstance(entry, list) else entry[parent]
    entry[int(key) if isinstance(entry, list) else key] = value
    return config


def test_the_default_configuration_is_valid():
    configuration.resolve(CONFIG)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("roundz", 3, r"the top level: unknown key 'roundz' \(expected one of dataset"),
        ("measuring.round", 3, r"measuring: unknown key 'round' \(expected one of rounds"),
        ("networks.dense.sparcity", 0.5, r"networks\.dense: unknown key 'sparcity'"),
        ("measuring.rounds", "three", r"measuring\.rounds: 'three' is not of type integer"),
        ("measuring.min_time_s", 0, r"measuring\.min_time_s: 0 is too small"),
        ("engines", ["onnxruntime", "warp"], r"engines: 'warp' is unknown \(expected one of .*onnxruntime"),
        ("engines", [], r"engines: empty"),
        ("benchmarks.0.batch_sizes", [0], r"benchmarks\.0\.batch_sizes\.0: 0 is too small \(expected at least 1\)"),
        ("benchmarks.0.precisions", ["fp8"], r"benchmarks\.0\.precisions\.0: 'fp8' is unknown"),
        ("benchmarks.0.networks", ["fence"], r"benchmarks\.0\.networks: 'fence' is unknown"),
        ("benchmarks.0.cores", [2], r"benchmarks\.0\.cores\.0: 2 is unknown \(expected one of 1, all\)"),
        ("dataset.name", "librispeech", r"dataset\.name: 'librispeech' is unknown \(expected one of synthetic_speech"),
        ("dataset.class_set", "letters", r"dataset\.class_set: 'letters' is unknown"),
        ("networks.pruned", {"start": "dance"}, r"networks\.pruned\.start: 'dance' is unknown"),
        ("networks.dense", {"sparsity": 1.0}, r"networks\.dense\.sparsity: expected .* below, 1, got 1\.0"),
        ("networks.dense", {"sparsity": -0.1}, r"networks\.dense\.sparsity: expected .* got -0\.1"),
        ("networks.dense", {"sparsity": {"conv9": 0.5}}, r"networks\.dense\.sparsity: layer 'conv9' does not exist"),
        (
            "networks.dense",
            {"pattern": "n_of_64", "sparsity": {"linear2": 0.5}},
            r"networks\.dense\.sparsity\.linear2: n_of_64 needs input channels that divide by 64",
        ),
        ("networks.dense", {"k_winners": {"act3": 0.0001}}, r"networks\.dense\.k_winners\.act3: .* 0 winners"),
        ("networks.dense", {"column_gate": 0}, r"networks\.dense\.column_gate: expected .* from 1 to 5, got 0"),
        ("networks.dense", {"seeds": [2]}, r"networks\.dense\.seeds: expected 1 in it, the seed that is measured"),
        ("networks.dense", {"start": "dense"}, r"networks\.dense\.start: dense -> dense goes in a circle"),
        (
            "networks.dense",
            {"teacher": "pruned"},
            r"networks\.pruned\.start: dense -> pruned -> dense goes in a circle",
        ),
        ("networks.sparse_dense", {"teacher": "dance"}, r"networks\.sparse_dense\.teacher: 'dance' is unknown"),
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

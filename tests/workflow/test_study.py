"""The configuration: what it refuses, in which words, and the cases and paths that follow from it."""

import copy

import pytest
import yaml

from sparsemark import study
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
    study.validate(CONFIG)


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
        ("networks.dense", {"k_winners": {"act3": 0}}, r"networks\.dense\.k_winners\.act3: expected a density above 0"),
        ("networks.dense", {"width": 0}, r"networks\.dense\.width: 0 is too small"),
        ("networks.pruned.width", 0.5, r"networks\.pruned\.width: a network that starts from another one has its arch"),
        (
            "networks.dense",
            {"architecture": "ds_cnn", "module": "net.py:Net"},
            r"networks\.dense: expected 'architecture' or 'module', not both",
        ),
        ("networks.dense", {"module": "no_such.py:Net"}, r"networks\.dense\.module: .* a file that exists, got 'no_such"),
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
        study.validate(changed(path, value), "my.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    config = copy.deepcopy(CONFIG)
    del config["measuring"]["rounds"]
    with pytest.raises(InputError, match="measuring: missing key 'rounds'"):
        study.validate(config)


def test_cases_are_the_union_of_the_sweeps_without_repetition():
    config = {
        "networks": {"dense": {}, "pruned": {"start": "dense"}},
        "engines": ["onnxruntime", "openvino"],
        "benchmarks": [
            {"networks": ["dense"], "precisions": ["fp32"], "batch_sizes": [1, 64], "cores": [1]},
            {"engines": ["openvino"], "precisions": ["fp32"], "batch_sizes": [64], "cores": [1, "all"]},
        ],
    }
    found = study.cases(config)
    assert len(found) == len(set(found)) == 2 * 2 + 2 * 2 - 1
    assert study.Case("pruned", "fp32", "openvino", 64, "all") in found
    assert not any(case.network == "pruned" and case.engine == "onnxruntime" for case in found)


def test_a_network_that_starts_from_another_is_pruned():
    config = {"networks": {"dense": {}, "pruned": {"start": "dense"}}}
    assert [study.trainer(config, name) for name in ("dense", "pruned")] == ["train", "prune"]


def test_a_network_may_have_seeds_of_its_own_which_do_not_concern_its_training():
    config = {"seeds": [1, 2], "networks": {"dense": {}, "pruned": {"start": "dense", "seeds": [1]}}}
    assert [study.seeds(config, name) for name in ("dense", "pruned")] == [[1, 2], [1]]
    assert study.training_spec(config, "pruned") == {"start": "dense"}


def test_the_teacher_is_where_the_chain_begins():
    config = {"networks": {"dense": {}, "pruned": {"start": "dense"}, "gated": {"start": "pruned"}}}
    assert [study.teacher(config, name) for name in ("dense", "pruned", "gated")] == [None, "dense", "dense"]


def test_a_network_may_name_its_teacher():
    networks = {"dense": {}, "sparse": {"teacher": "dense"}, "pruned": {"start": "sparse", "teacher": "dense"}}
    config = {"networks": networks}
    assert [study.teacher(config, name) for name in ("sparse", "pruned")] == ["dense", "dense"]
    assert study.trainer(config, "sparse") == "train"


def test_model_paths_follow_the_engine_and_precision():
    case = {"network": "dense", "seed": 7, "batch_size": 64}
    data = study.data_name(CONFIG)
    path = study.model_path(CONFIG, engine="onnxruntime", precision="fp32", **case)
    assert path == f"results/export_onnx/{data}/dense/seed7/batch64.onnx"
    assert study.model_path(CONFIG, engine="pytorch_eager", precision="fp32", **case).endswith("dense/seed7/model.pt")


def test_sources_follow_imports_and_stay_inside_the_scripts():
    found = study.sources("benchmark", "sparsemark/study")
    assert "workflow/scripts/sparsemark/study.py" in found
    assert "workflow/scripts/sparsemark/files.py" in found
    assert "workflow/scripts/sparsemark/engines/protocol.py" in found
    assert all(path.startswith("workflow/scripts/") for path in found)


def test_an_environment_folder_changes_with_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "ROOT", tmp_path)
    (tmp_path / "envs").mkdir()
    folders = []
    for content in ("a", "b"):
        (tmp_path / "envs/small.yaml").write_text(content)
        study.environment_prefix.cache_clear()
        folders.append(study.environment_prefix("small"))
    (tmp_path / "envs/small.post-deploy.sh").write_text("true")
    study.environment_prefix.cache_clear()
    folders.append(study.environment_prefix("small"))
    assert len(set(folders)) == 3
    assert all(folder.startswith(".envs/small-") for folder in folders)

"""The cases and paths that follow from a configuration."""

import yaml

from sparsemark import study

CONFIG = yaml.safe_load((study.ROOT / "config.yaml").read_text())


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
    # One more: on all cores, the openvino cases take turns with a reference that no sweep names.
    assert len(found) == len(set(found)) == 2 * 2 + 2 * 2 - 1 + 1
    assert study.Case("dense", "fp32", "onnxruntime", 64, "all") in found
    assert study.Case("pruned", "fp32", "openvino", 64, "all") in found
    assert not any(case.network == "pruned" and case.engine == "onnxruntime" for case in found)


def test_the_reference_and_the_base_are_in_every_study():
    config = {
        "networks": {"small": {"sparsity": 0.5}, "whole": {}},
        "engines": ["openvino"],
        "benchmarks": [{"networks": ["small"], "precisions": ["int8"], "batch_sizes": [8], "cores": ["all"]}],
    }
    assert study.cases(config) == [
        study.Case("small", "int8", "openvino", 8, "all"),
        study.Case("whole", "fp32", "onnxruntime", 8, "all"),
        study.Case("whole", "fp32", "onnxruntime", 64, "1"),
    ]
    assert study.engines(config) == ["openvino", "onnxruntime"]


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


def test_sources_of_an_engine_of_ours_include_the_engine():
    assert "dualsparse/kernels/packing.py" in study.sources("sparsemark/engines/dualsparse")
    assert "dualsparse/engine.py" not in study.sources("sparsemark/engines/onnxruntime")


def test_a_fingerprint_follows_the_content_and_nothing_else(tmp_path, monkeypatch):
    prints = []
    for folder, code, data in (("a", "1", "x"), ("another place", "1", "x"), ("b", "2", "x"), ("c", "1", "y")):
        scripts = tmp_path / folder / "workflow/scripts"
        scripts.mkdir(parents=True)
        (scripts / "program.py").write_text("import helper\n")
        (scripts / "helper.py").write_text(f"x = {code}\n")
        (tmp_path / folder / "table.csv").write_text(data)
        monkeypatch.setattr(study, "ROOT", tmp_path / folder)
        monkeypatch.setattr(study, "SCRIPTS", scripts)
        study.sources.cache_clear()
        study.fingerprint.cache_clear()
        prints.append(study.fingerprint("program", files=("table.csv",)))
    study.sources.cache_clear()
    study.fingerprint.cache_clear()
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert prints[0].startswith("program ")


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

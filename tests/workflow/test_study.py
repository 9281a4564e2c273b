"""The cases and paths that follow from a configuration."""

import pytest
import yaml

from sparsemark import configuration, study
from sparsemark.files import InputError

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
    assert "dualsparse/kernels/instruction_sets/avx2.py" in study.sources("sparsemark/engines/dualsparse")
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


@pytest.fixture
def files(tmp_path):
    """An entry with an ONNX file and samples that exist, as far as this room looks."""
    for name in ("net.onnx", "my.npz", "net.py"):
        (tmp_path / name).touch()
    return {"onnx": str(tmp_path / "net.onnx"), "data": str(tmp_path / "my.npz")}


def with_networks(networks):
    """The default configuration with these networks beside its own."""
    return {**CONFIG, "networks": {**CONFIG["networks"], **networks}}


def test_a_network_from_a_file_is_imported_and_may_be_pruned_as_a_what_if(files):
    config = with_networks({"mine": {**files, "unit": "images"}, "light": {"start": "mine", "sparsity": 0.9}})
    configuration.resolve(config)
    assert study.file_networks(config) == ["mine", "light"]
    assert study.trained_networks(config) == list(CONFIG["networks"])
    assert study.trainer(config, "light") == "import_network"
    assert study.seeds(config, "light") == [1]
    assert study.data_of(config, "light") == "mine" and study.data_of(config, "dense") == study.data_name(config)
    assert study.training_spec(config, "light") == {**files, "unit": "images", "start": "mine", "sparsity": 0.9}
    case = {"network": "light", "seed": 1, "batch_size": 8}
    path = study.model_path(config, engine="onnxruntime", precision="fp32", **case)
    assert path == "results/fix_batch_size/mine/light/seed1/batch8.onnx"
    path = study.model_path(config, engine="openvino", precision="int8", **case)
    assert path == "results/quantize_openvino/mine/light/seed1/batch8.onnx"
    for engine, precision in (("pytorch_eager", "fp32"), ("pytorch_compile", "int8")):
        assert study.model_path(config, engine=engine, precision=precision, **case) is None


def test_a_pruned_network_has_the_architecture_it_starts_from():
    networks = {"small": {"architecture": "ds_cnn", "width": 0.5}, "light": {"start": "small", "sparsity": 0.9}}
    config = with_networks(networks)
    configuration.resolve(config)
    assert study.training_spec(config, "light") == {**networks["small"], **networks["light"]}
    assert study.architecture(config, "light") == "ds_cnn"
    assert study.architectures(config) == ["ds_cnn", "gsc_cnn"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"onnx": "none.onnx", "range": [0, 1]},
            r"mine\.onnx: expected an ONNX file that exists or an address, got 'none",
        ),
        ({"onnx": "FILE"}, r"mine: expected either 'data', an npz file with samples, or 'range'"),
        ({"onnx": "FILE", "range": [0, 1], "data": "x.npz"}, r"mine: expected either 'data'"),
        ({"onnx": "FILE", "data": "none.npz"}, r"mine\.data: expected an npz file that exists, got 'none\.npz'"),
        ({"onnx": "FILE", "range": [1, 0]}, r"mine\.range: expected two numbers, the lower one first"),
        (
            {"onnx": "FILE", "range": [0, 1], "epochs": 3},
            r"mine: unexpected key 'epochs' \(a network from a file is taken",
        ),
        (
            {"onnx": "FILE", "range": [0, 1], "sparsity": 0.5},
            r"mine: unexpected key 'sparsity' .*another entry that starts",
        ),
        ({"onnx": "FILE", "range": [0, 1], "sha256": 64 * "0"}, r"mine\.sha256: expected an address as 'onnx'"),
        ({"data": "x.npz"}, r"mine\.data: expected 'onnx' beside it"),
        (
            {"architecture": "resnet"},
            r"mine\.architecture: 'resnet' is unknown \(expected one of ds_cnn, gsc_cnn, tc_resnet8\)",
        ),
        ({"teacher": "other"}, r"mine\.teacher: expected a network that this study trains, 'other' is a file"),
        ({"start": "other"}, r"mine: missing key 'sparsity' \(what is left of the file's weights\)"),
        ({"start": "other", "sparsity": 0.9, "epochs": 5}, r"mine: unexpected key 'epochs' .* is not trained"),
    ],
)
def test_wrong_entries_of_files_and_modules_are_one_sentence(files, entry, message):
    if entry.get("onnx") == "FILE":
        entry = {**entry, "onnx": files["onnx"]}
    config = with_networks({"mine": entry, "other": files})
    with pytest.raises(InputError, match=rf"^my\.yaml: networks\.{message}") as caught:
        configuration.resolve(config, "my.yaml")
    assert "\n" not in str(caught.value)

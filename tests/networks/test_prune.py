"""Gradual pruning: its schedule, NNI's masks against our own, and the program end to end on a handful of clips."""

import csv
import json

import numpy as np
import pytest
import torch
from training_step import disturb

import prune
from sparsemark.files import InputError
from sparsemark.networks.layers import layers_of
from sparsemark.networks.network import build_network, load_network, save_network
from sparsemark.networks.weight_masks import apply_masks, magnitude_masks, verify_masks

CLASSES = ["yes", "no", "unknown", "silence"]
SPARSITY = {"conv1": 0.5, "conv2": 0.9375, "linear1": 0.9375}


@pytest.fixture
def model():
    torch.manual_seed(5)
    return build_network({}, len(CLASSES))


def shares(model):
    return {name: float((getattr(model, name).weight == 0).float().mean()) for name in layers_of(model)}


def test_schedule_follows_the_cubic_curve_and_then_holds(model):
    spec = {"sparsity": {"conv2": 0.9375}, "pattern": "n_of_64"}
    pruning = prune.GradualPruning(model, spec)
    found = {}
    for step in range(2, 102, 2):
        disturb(model)
        pruning(step, 100)
        found[step] = shares(model)["conv2"]
    assert list(found.values()) == sorted(found.values())
    for step in (2, 20, 30):
        # Whole channels of 64, and an update with every second step.
        expected = 0.9375 * (1 - (1 - step / (prune.PRUNING_SHARE * 100)) ** 3)
        assert found[step] == pytest.approx(expected, abs=0.5 / 64 + 1e-6)
    assert {found[step] for step in range(50, 102, 2)} == {0.9375}
    verify_masks(model, spec)


def test_masks_are_frozen_in_the_last_part(model):
    pruning = prune.GradualPruning(model, {"sparsity": SPARSITY, "pattern": "block4"})
    pruning(50, 100)
    kept = model.linear1.weight != 0
    for step in range(51, 101):
        with torch.no_grad():
            model.linear1.weight.normal_()
        pruning(step, 100)
        assert torch.equal(model.linear1.weight != 0, kept)


def test_nni_removes_the_smallest_weights(model):
    choose = prune.LevelMasks(model, {**SPARSITY, "linear2": 0.0})
    disturb(model)
    assert not any("_nni" in name for name in model.state_dict()), "NNI wraps its copy only"
    masks = choose(model, prune.UPDATES)
    reference = magnitude_masks(model, SPARSITY, "unstructured")
    assert list(masks) == list(reference)
    for name in masks:
        # Equal up to ties at the threshold.
        assert int((masks[name] != reference[name]).sum()) <= 2
    assert float(choose(model, 1)["conv2"].float().mean()) == pytest.approx(1 - 0.9375 * prune.agp_share(1), abs=1e-3)


@pytest.mark.parametrize("pattern", ["unstructured", "block4", "n_of_64", "block16", "complementary"])
def test_a_resumed_pruning_ends_with_the_pattern(model, pattern):
    spec = {"sparsity": SPARSITY, "pattern": pattern}
    prune.GradualPruning(model, spec)(30, 100)
    disturb(model)
    resumed = prune.GradualPruning(model, spec)
    resumed(31, 100)
    assert shares(model)["conv2"] > 0.8
    resumed(100, 100)
    verify_masks(model, spec)


def test_one_number_lets_the_trained_network_share_it_out(model):
    spec = {"start": "dense", "sparsity": 0.95}
    prune.GradualPruning(model, spec)(100, 100)
    verify_masks(model, spec)
    found = shares(model)
    assert len(set(found.values())) == len(found)


def test_start_keeps_weights_and_statistics_but_not_win_counts(model, tmp_path):
    start = build_network({"k_winners": {"act3": 0.1}}, len(CLASSES))
    start.bn2.running_mean += 3
    start.act3.duty_cycle += 0.5
    save_network(tmp_path / "start.pt", start, network="start", spec={"k_winners": {"act3": 0.1}}, classes=CLASSES)
    spec = {"k_winners": {"act2": 0.2, "act3": 0.1}, "column_gate": 2}
    teacher = prune.load_for(tmp_path / "start.pt", CLASSES)
    begun = prune.begin(teacher, spec, len(CLASSES), "here")
    assert torch.equal(begun.linear1.weight, start.linear1.weight)
    assert torch.equal(begun.bn2.running_mean, start.bn2.running_mean)
    assert begun.act3.duty_cycle.sum() == 0 and teacher.act3.duty_cycle.sum() > 0
    with pytest.raises(InputError, match=r"start\.pt: expected a network for the classes"):
        prune.load_for(tmp_path / "start.pt", CLASSES[::-1])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared data set of noise: enough to run the program, not to learn from."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    labels = np.arange(24) % len(CLASSES)
    np.save(folder / "train.npy", rng.normal(-10, 20, (24, 32, 83)).astype(np.float16))
    np.save(folder / "noise.npy", rng.normal(-10, 20, (32, 100)).astype(np.float16))
    with open(folder / "train.csv", "w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["clip", "label", "word", "speaker", "source"])
        rows.writerows([i, label, CLASSES[label], f"s{i}", ""] for i, label in enumerate(labels))
    description = {"dataset": "noise", "title": "Noise", "class_set": "commands", "classes": CLASSES}
    (folder / "dataset.json").write_text(json.dumps(description))
    (folder / "frontend.json").write_text(json.dumps({"mean": -10.0, "std": 20.0}))
    for split in ("validation", "test"):
        x = rng.standard_normal((8, 1, 32, 32)).astype(np.float32)
        np.savez(folder / f"{split}.npz", x=x, y=labels[:8])
    dense = build_network({}, len(CLASSES))
    save_network(folder / "model.pt", dense, network="dense", spec={}, classes=CLASSES)
    return folder


@pytest.mark.parametrize(
    "spec",
    [
        {"sparsity": {**SPARSITY, "linear2": 0.9}},
        {"sparsity": 0.95, "pattern": "block16"},
        {"sparsity": SPARSITY, "pattern": "n_of_64", "column_gate": 2, "k_winners": {"act1": 0.1}},
        {"column_gate": 3},
    ],
)
def test_program_writes_a_network_that_keeps_its_promise(prepared, tmp_path, spec):
    spec = {"start": "dense", **spec}
    prune.main(
        [
            *("--data", str(prepared), "--features", str(prepared), "--start", str(prepared / "model.pt")),
            *("--network", "sparse", "--spec", json.dumps(spec), "--out", str(tmp_path)),
            *("--training", json.dumps({"epochs": 2, "batch_size": 8})),
        ]
    )
    model, record = load_network(tmp_path / "model.pt")
    assert record["spec"] == spec and record["network"] == "sparse"
    verify_masks(model, spec)
    assert not list(tmp_path.glob("checkpoint*"))
    with np.load(prepared / "test.npz") as test, torch.no_grad():
        logits = model(torch.from_numpy(test["x"]))
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "logits.npy")), logits)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    weights = sum(int(torch.count_nonzero(getattr(model, name).weight)) for name in layers_of(model))
    assert metrics["nonzero_weights"] == weights
    assert metrics["parameters"] > metrics["nonzero_weights"]


def test_a_pruned_start_keeps_its_masks():
    model = build_network({}, len(CLASSES))
    spec = {"sparsity": {**SPARSITY, "linear1": 0.875}, "pattern": "n_of_64"}
    apply_masks(model, magnitude_masks(model, spec["sparsity"], spec["pattern"]))
    kept = {name: getattr(model, name).weight != 0 for name in layers_of(model)}
    pruning = prune.GradualPruning(model, spec)
    disturb(model)
    pruning(1, 100)
    for name, mask in kept.items():
        assert torch.equal(getattr(model, name).weight != 0, mask)


def test_program_learns_from_the_teacher_it_is_given(prepared, tmp_path):
    teacher = build_network({}, len(CLASSES))
    # It has one opinion about everything.
    teacher.linear2.weight.data.zero_()
    teacher.linear2.weight.data[2] = 1.0
    save_network(tmp_path / "teacher.pt", teacher, network="teacher", spec={}, classes=CLASSES)
    prune.main(
        [
            *("--data", str(prepared), "--features", str(prepared), "--start", str(prepared / "model.pt")),
            *("--teacher", str(tmp_path / "teacher.pt"), "--network", "gated", "--out", str(tmp_path)),
            *("--spec", json.dumps({"start": "dense", "column_gate": 3})),
            *("--training", json.dumps({"epochs": 8, "batch_size": 8, "distillation": 1.0})),
        ]
    )
    assert (np.load(tmp_path / "logits.npy").argmax(axis=1) == 2).all()


@pytest.mark.parametrize("gate", [1, 2, 3, "pair"])
def test_gate_of_a_pruned_network_silences_whole_columns(prepared, gate):
    model = prune.begin(prune.load_for(prepared / "model.pt", CLASSES), {"column_gate": gate}, len(CLASSES), "here")
    model.eval()
    columns = []
    model.linear1.register_forward_pre_hook(lambda _, inputs: columns.append(inputs[0].reshape(-1, 64, 5, 5)))
    with np.load(prepared / "test.npz") as test, torch.no_grad():
        x = torch.from_numpy(test["x"])
        model(x)
    heard = columns[0].sum(dim=(1, 2)) != 0
    for sample, found in zip(x[:, 0], heard, strict=True):
        energy = [float(sample[:, 4 * column : 4 * column + 16].mean()) for column in range(5)]
        if gate == "pair":
            loudest = max(range(1, 4), key=energy.__getitem__)
            expected = {loudest - 1, loudest + 1}
        else:
            expected = set(sorted(range(5), key=energy.__getitem__)[-gate:])
        assert set(torch.nonzero(found).flatten().tolist()) == expected

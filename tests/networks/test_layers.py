"""The layers of any network, found by a sample that runs through it; and networks of other architectures."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import export_onnx
import prune
import train
from sparsemark.files import InputError
from sparsemark.networks.layers import activations_of, input_densities, layer_table, layers_of
from sparsemark.networks.network import build_network, check_network, load_network, save_network
from sparsemark.networks.sparsity_patterns import Layer
from sparsemark.networks.weight_masks import apply_masks, magnitude_masks, verify_masks

SPECS = {
    "gsc_cnn": {"width": 0.25},
    "ds_cnn": {"architecture": "ds_cnn"},
    "tc_resnet8": {"architecture": "tc_resnet8"},
}
OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 3, stride=4)
        self.layers = nn.ModuleDict({"a": nn.Conv2d(64, 64, 3, padding=1), "relu": nn.ReLU()})
        self.head = nn.Linear(64 * 8 * 8, classes)

    def forward(self, x):
        return self.head(self.layers["relu"](self.layers["a"](self.stem(x))).flatten(1))
"""


@pytest.fixture
def own(tmp_path: Path) -> dict:
    (tmp_path / "own_net.py").write_text(OWN)
    return {"module": f"{tmp_path / 'own_net.py'}:Net"}


def test_the_study_s_network_has_the_layers_it_always_had() -> None:
    assert layers_of(build_network({}, 12)) == {
        "conv1": Layer(outputs=64, positions=25, channels=1, uses=28 * 28),
        "conv2": Layer(outputs=64, positions=25, channels=64, uses=100),
        "linear1": Layer(outputs=1500, positions=25, channels=64, uses=1, linear=True),
        "linear2": Layer(outputs=12, positions=1, channels=1500, uses=1, linear=True),
    }


@pytest.mark.parametrize("name", SPECS)
def test_multiplications_are_those_that_are_done(name: str) -> None:
    """Counted anew: with weights of 1, without biases, and inputs of 1, the outputs add up to the multiplications."""
    model = build_network(SPECS[name], 12).double()
    table = {layer["name"]: layer for layer in layer_table(model.float())}
    seen = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor], _output: torch.Tensor, layer: str) -> None:
        # Padded positions are multiplied, too: only an input that is already padded shows them.
        x = torch.ones_like(inputs[0])
        if isinstance(module, nn.Conv2d):
            x = nn.functional.pad(x, [module.padding[1]] * 2 + [module.padding[0]] * 2, value=1.0)
            y = nn.functional.conv2d(x, torch.ones_like(module.weight), None, module.stride, 0, 1, module.groups)
        else:
            y = nn.functional.linear(x, torch.ones_like(module.weight))
        seen[layer] = float(y.double().sum())

    for layer in table:
        model.get_submodule(layer).register_forward_hook(lambda *args, layer=layer: note(*args, layer))
    model.eval()(torch.zeros(1, 1, 32, 32))
    assert {name: row["macs"] for name, row in table.items()} == seen


def test_the_control_networks_cost_what_was_published() -> None:
    macs = {name: sum(row["macs"] for row in layer_table(build_network(SPECS[name], 12))) for name in SPECS}
    assert macs["ds_cnn"] == pytest.approx(2.7e6, rel=0.1)
    parameters = sum(weight.numel() for weight in build_network(SPECS["tc_resnet8"], 12).parameters())
    assert parameters == pytest.approx(66e3, rel=0.1)


@pytest.mark.parametrize("name", SPECS)
def test_looking_at_a_network_leaves_it_as_it_was(name: str) -> None:
    model = build_network(SPECS[name], 12).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers_of(model), activations_of(model), layer_table(model)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_flattened_map_is_known_behind_a_gate_and_in_an_own_module(own: dict) -> None:
    gated = layers_of(build_network({"column_gate": 2, "k_winners": {"act2": 0.2}}, 12))
    assert (gated["linear1"].positions, gated["linear1"].channels) == (25, 64)
    layers = layers_of(check_network(own, 12, "here"))
    assert list(layers) == ["stem", "layers.a", "head"]
    assert (layers["head"].positions, layers["head"].channels) == (64, 64)


def test_densities_are_those_of_the_inputs() -> None:
    model = build_network(SPECS["tc_resnet8"], 12).eval()
    x = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    x[:, :, :, ::2] = 0
    densities = input_densities(model, x.split(4))
    assert list(densities) == list(layers_of(model))
    assert densities["first.0"] == 0.5
    inner = []
    model.blocks[0].second.register_forward_pre_hook(lambda _, inputs: inner.append(inputs[0]))
    model(x)
    assert densities["blocks.0.second.0"] == pytest.approx(float((inner[0] != 0).double().mean()))


@pytest.mark.parametrize("pattern", ["unstructured", "block4", "block16"])
@pytest.mark.parametrize("name", ["ds_cnn", "tc_resnet8"])
def test_any_network_can_be_pruned_by_one_number(name: str, pattern: str) -> None:
    spec = {**SPECS[name], "start": "dense", "sparsity": 0.8, "pattern": pattern}
    model = check_network(spec, 12, "here")
    apply_masks(model, magnitude_masks(model, 0.8, pattern))
    verify_masks(model, spec)
    rows = layer_table(model)
    kept = sum(row["nonzero_weights"] for row in rows) / sum(row["weights"] for row in rows)
    assert kept == pytest.approx(0.2, abs=0.02)


def test_layers_with_dots_in_their_names_can_have_a_sparsity_of_their_own(own: dict) -> None:
    spec = {**own, "start": "dense", "sparsity": {"layers.a": 0.9375, "head": 0.875}, "pattern": "n_of_64"}
    model = check_network(spec, 12, "here")
    prune.GradualPruning(model, spec)(100, 100)
    verify_masks(model, spec)
    weight = model.layers["a"].weight
    assert (torch.count_nonzero(weight, dim=1) == 4).all()


@pytest.mark.parametrize("name", [*SPECS, "own"])
def test_files_hold_the_same_network(name: str, tmp_path: Path, own: dict) -> None:
    spec = {**SPECS, "own": own}[name]
    torch.manual_seed(1)
    model = build_network(spec, 12)
    x = torch.randn(20, 1, 32, 32)
    with torch.no_grad():
        model.train()(x)
    apply_masks(model, magnitude_masks(model, 0.5, "unstructured"))
    model.eval()
    save_network(tmp_path / "model.pt", model, network=name, spec=spec, classes=[str(i) for i in range(12)])
    loaded, _ = load_network(tmp_path / "model.pt")
    expected = loaded(x).detach().numpy()
    np.testing.assert_array_equal(expected, model(x).detach().numpy())
    exported = export_onnx.to_onnx(loaded, 4)
    export_onnx.check(exported, loaded, x.numpy(), expected, tmp_path)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in exported.graph.initializer}
    for layer in layers_of(loaded):
        kept = loaded.get_submodule(layer).weight.detach().numpy() != 0
        found = weights[f"{layer}.weight"] != 0
        np.testing.assert_array_equal(found if found.shape == kept.shape else found.T, kept)
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": x[:4].numpy()})[0], expected[:4], atol=1e-4)


@pytest.mark.parametrize("name", ["tc_resnet8", "own"])
def test_the_programs_train_and_prune_it(name: str, tiny: tuple[Path, Path], tmp_path: Path, own: dict) -> None:
    spec = {**SPECS, "own": own}[name]
    common = ["--data", tiny[0], "--features", tiny[1], "--training", json.dumps({"epochs": 1, "batch_size": 16})]
    train.main([str(a) for a in (*common, "--network", name, "--spec", json.dumps(spec), "--out", tmp_path / "dense")])
    spec = {**spec, "start": name, "sparsity": 0.75}
    start = ("--start", tmp_path / "dense/model.pt")
    prune.main(
        [str(a) for a in (*common, *start, "--network", "pruned", "--spec", json.dumps(spec), "--out", tmp_path / "p")]
    )
    metrics = json.loads((tmp_path / "p/metrics.json").read_text())
    verify_masks(load_network(tmp_path / "p/model.pt")[0], spec)
    assert [layer["name"] for layer in metrics["layers"]] == list(layers_of(build_network(spec, 5)))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "Net", "expected FILE.py:CLASS with a file that exists"),
        ("import nothing_of_this_name", "Net", "fails when it is imported .*nothing_of_this_name"),
        ("Net = 3", "Net", "expected a class 'Net'"),
        (OWN, "Other", "expected a class 'Other'"),
        (OWN.replace("64 * 8 * 8", "7"), "Net", r"fails on one sample of shape \(1, 32, 32\)"),
        (
            OWN.replace("8, classes", "8, classes + 1"),
            "Net",
            r"logits of shape \(1, 12\) for one sample, got \(1, 13\)",
        ),
        (OWN.replace("(self, classes)", "(self)"), "Net", "Net cannot be made for 12 classes"),
    ],
)
def test_wrong_modules_are_one_sentence(tmp_path: Path, text: str | None, name: str, message: str) -> None:
    if text is not None:
        (tmp_path / "net.py").write_text(text)
    with pytest.raises(InputError, match=rf"^here.*{message}") as caught:
        check_network({"module": f"{tmp_path}/net.py:{name}"}, 12, "here")
    assert "\n" not in str(caught.value)


def test_a_network_can_only_start_from_one_with_its_layers() -> None:
    start = build_network({"architecture": "ds_cnn"}, 12)
    with pytest.raises(InputError, match="here: expected the layers of the network that it starts from"):
        prune.begin(start, {"start": "small"}, 12, "here")

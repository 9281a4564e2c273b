"""The network's arithmetic, its k-winners and its column gate, against NumPy and against their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparsemark.files import InputError
from sparsemark.networks.activation_sparsity import KWinners
from sparsemark.networks.layers import layer_table
from sparsemark.networks.network import build_network, load_network, save_network


def test_size_is_the_study_s() -> None:
    model = build_network({}, 12)
    assert sum(weight.numel() for weight in model.parameters()) == 2_522_128
    assert [layer["macs"] for layer in layer_table(model)] == [1_254_400, 10_240_000, 2_400_000, 18_000]
    assert model(torch.zeros(3, 1, 32, 32)).shape == (3, 12)


def test_layer_table_counts_what_is_not_zero() -> None:
    model = build_network({}, 12)
    with torch.no_grad():
        model.conv2.weight[:, 1:] = 0
    conv2 = layer_table(model)[1]
    assert (conv2["weights"], conv2["nonzero_weights"]) == (102_400, 1_600)
    assert (conv2["macs"], conv2["nonzero_macs"]) == (10_240_000, 160_000)


@pytest.mark.parametrize("shape", [(6, 5, 4), (40,)])
def test_k_winners_keeps_the_largest_of_each_sample(shape: tuple[int, ...]) -> None:
    layer = KWinners(shape, 0.1).eval()
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))
    expected = np.zeros((8, int(np.prod(shape))), np.float32)
    for row, sample in zip(expected, x.flatten(1).numpy(), strict=True):
        winners = np.argsort(sample)[-layer.k :]
        row[winners] = np.maximum(sample[winners], 0)
    np.testing.assert_array_equal(layer(x).flatten(1).numpy(), expected)
    assert (layer(-x.abs()) == 0).all()


def test_boosting_lets_idle_units_win_in_training_only() -> None:
    layer = KWinners((10,), 0.2)
    always = torch.tensor([[1.0, 0.9, *[0.8] * 8]]) + torch.arange(10) * -1e-3
    for _ in range(50):
        layer(always)
    assert layer.duty_cycle.flatten()[2:].max() > 0.05
    assert torch.nonzero(layer.eval()(always))[:, 1].tolist() == [0, 1]
    # The values are not boosted, and the gradient reaches the winners only.
    layer.train()
    x = always.clone().requires_grad_()
    y = layer(x)
    assert set(y[y > 0].tolist()) <= set(x.flatten().tolist())
    y.sum().backward()
    assert ((x.grad != 0) == (y != 0)).all()


def test_boosting_fades() -> None:
    layer = KWinners((10,), 0.2)
    strengths = []
    for progress in (0, 1 / 30, 1):
        layer.set_progress(progress)
        strengths.append(layer.strength)
    np.testing.assert_allclose(strengths, [1.5, 1.5 * 0.9, 1.5 * 0.9**30])


def test_column_gate_keeps_the_loudest_columns() -> None:
    model = build_network({"column_gate": 2}, 12).eval()
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    x[0, :, :, 18:26] += 5
    gate = model.gate(x).numpy()
    assert gate.shape == (4, 1, 1, 5)
    energy = np.stack([x[:, 0, :, 4 * j : 4 * j + 16].numpy().mean(axis=(1, 2)) for j in range(5)], axis=1)
    for row, loudness in zip(gate[:, 0, 0], energy, strict=True):
        assert set(np.flatnonzero(row)) == set(np.argsort(loudness)[-2:])


def test_gated_columns_see_what_the_gate_sums() -> None:
    """Frames outside 4j to 4j + 15 change nothing in column j of the second pool."""
    model = build_network({}, 12).eval()
    seen = []
    model.act2.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    model(x)
    for j in range(5):
        outside = torch.randn(x.shape)
        outside[..., 4 * j : 4 * j + 16] = x[..., 4 * j : 4 * j + 16]
        model(outside)
        torch.testing.assert_close(seen[-1][..., j], seen[0][..., j])
        assert not torch.allclose(seen[-1], seen[0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"k_winners": {"act4": 0.1}}, "activation 'act4' does not exist"),
        ({"k_winners": {"act1": 0}}, "act1: expected a density above 0"),
        ({"column_gate": 6}, "columns from 1 to 5, got 6"),
    ],
)
def test_impossible_networks_are_one_sentence(spec: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_network(spec, 12)


def test_saved_networks_come_back(tmp_path: Path) -> None:
    spec = {"k_winners": {"act1": 0.1, "act2": 0.125, "act3": 0.1}, "sparsity": {"conv1": 0.5}}
    model = build_network(spec, 3).to(memory_format=torch.channels_last)
    x = torch.randn(8, 1, 32, 32)
    model(x)
    save_network(tmp_path / "model.pt", model, network="name", spec=spec, classes=["a", "b", "c"])
    loaded, record = load_network(tmp_path / "model.pt")
    assert record == {"network": "name", "spec": spec, "classes": ["a", "b", "c"]}
    assert not loaded.training
    assert loaded.conv2.weight.is_contiguous()
    torch.testing.assert_close(loaded(x), model.eval()(x))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no network")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    for name in ("text.pt", "other.pt", "none.pt"):
        with pytest.raises(InputError, match=f"{name}: expected a network saved by this workflow"):
            load_network(tmp_path / name)

"""Networks that are sparse from the start: masks that stay, and weights that move."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_step import disturb

import train
from sparsemark.networks import training
from sparsemark.networks.network import build_network, load_network
from sparsemark.networks.training import fit
from sparsemark.networks.training_data import TrainingData
from sparsemark.networks.training_settings import Settings
from sparsemark.networks.weight_masks import apply_masks, make_masks
from train import KeptMasks, moved_mask

SPARSITY = {"conv1": 0.5, "conv2": 0.8, "linear1": 0.95}
SETTINGS = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3}


def sparse_network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    model = build_network({}, 5)
    apply_masks(model, make_masks(model, {"sparsity": SPARSITY}, torch.Generator().manual_seed(seed)))
    return model


def nonzero(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: getattr(model, name).weight != 0 for name in SPARSITY}


@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
def test_the_smallest_weights_make_way_for_the_largest_others(density: float) -> None:
    rng = np.random.default_rng(1)
    weight, mask = rng.normal(size=(40, 30)), rng.random((40, 30)) < density
    # As a convolution's weights lie in memory: transposed.
    in_memory = torch.from_numpy(np.ascontiguousarray(weight.T)).T
    moved = moved_mask(in_memory, torch.from_numpy(mask), 0.25).numpy()
    count = int(0.25 * min(mask.sum(), (~mask).sum()))
    expected = mask.copy()
    magnitudes = np.abs(weight)
    kept, others = np.argwhere(mask), np.argwhere(~mask)
    expected[tuple(kept[np.argsort(magnitudes[mask])[:count]].T)] = False
    expected[tuple(others[np.argsort(-magnitudes[~mask])[:count]].T)] = True
    np.testing.assert_array_equal(moved, expected)


def test_masks_stay_without_regrowth() -> None:
    model = sparse_network()
    before = nonzero(model)
    keep = KeptMasks(model, list(SPARSITY), regrowth=0.0)
    keep(0, 1000)
    for step in (99, 100, 101):
        disturb(model)
        keep(step, 1000)
        for name, mask in nonzero(model).items():
            assert torch.equal(mask, before[name])


def test_fewer_and_fewer_weights_move_and_in_the_end_none() -> None:
    model = sparse_network()
    keep = KeptMasks(model, list(SPARSITY), regrowth=0.3)
    keep(0, 1000)
    before, shares = nonzero(model), []
    for step in range(50, 1001, 50):
        disturb(model)
        keep(step, 1000)
        after = nonzero(model)
        for name in SPARSITY:
            assert after[name].sum() == before[name].sum()
        shares.append(float((before["linear1"] & ~after["linear1"]).sum() / before["linear1"].sum()))
        before = after
    assert not any(shares[::2]), "weights move with every hundredth step only"
    moves = shares[1::2]
    # The cosine reaches zero with step 750.
    expected = [0.15 * (1 + np.cos(np.pi * step / 750)) for step in range(100, 750, 100)]
    np.testing.assert_allclose(moves, [*expected, 0, 0, 0], atol=1e-4)


def test_a_killed_training_goes_on_with_its_masks(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "MOVE_INTERVAL", 2)
    monkeypatch.setattr(training, "CHECKPOINT_INTERVAL_S", 0)
    torch.set_num_threads(1)
    data, settings = TrainingData(*tiny), Settings(**SETTINGS)
    steps = data.clips_per_epoch // settings.batch_size
    # The checkpoint at the end of the second epoch is of a step at which weights have just moved.
    assert 2 * steps % train.MOVE_INTERVAL == 0

    def run(model: nn.Module, dies: bool = False, **options: Path) -> None:
        keep = KeptMasks(model, list(SPARSITY), regrowth=0.3)

        def after_step(step: int, total: int) -> None:
            if dies and step == 2 * steps + 1:
                raise KeyboardInterrupt
            keep(step, total)

        fit(model, data, settings, seed=1, after_step=after_step, **options)

    whole, killed, resumed = sparse_network(), sparse_network(), sparse_network(seed=2)
    first = nonzero(whole)
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(killed, dies=True, checkpoint=tmp_path / "checkpoint.pt")
    run(resumed, checkpoint=tmp_path / "checkpoint.pt")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)
    for name, mask in nonzero(whole).items():
        assert mask.sum() == first[name].sum() and not torch.equal(mask, first[name])


@pytest.mark.parametrize("regrowth", [{}, {"regrowth": 0.3}])
def test_the_program_keeps_the_sparsity(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regrowth: dict
) -> None:
    monkeypatch.setattr(train, "MOVE_INTERVAL", 2)
    spec = {"sparsity": SPARSITY, **regrowth}
    arguments = ["--data", tiny[0], "--features", tiny[1], "--network", "sparse", "--spec", json.dumps(spec)]
    train.main([str(value) for value in (*arguments, "--training", json.dumps(SETTINGS), "--out", tmp_path)])
    model, _ = load_network(tmp_path / "model.pt")
    random = make_masks(model, spec, torch.Generator().manual_seed(1))
    for name, mask in nonzero(model).items():
        assert mask.sum() == random[name].sum()
        assert torch.equal(mask, random[name]) == (not regrowth)

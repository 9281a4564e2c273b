"""Make the models that the engine contract is tested on. Runs in the environment `train`.

No training: the last layer alone is fitted, by least squares on random features, so that the classes of the test clips
are as clear as those of a trained network.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch

from export_onnx import to_onnx
from sparsemark.networks.network import build_network, save_network
from sparsemark.networks.weight_masks import apply_masks, make_masks

CLASSES, CLIPS, CALIBRATION_CLIPS = 12, 300, 128
NETWORKS = {
    "dense": {},
    # Zeros in blocks of 16 outputs, for engines that skip them.
    "blocks": {"sparsity": {"linear1": 0.9}, "pattern": "block16"},
    "winners": {"k_winners": {"act1": 0.095, "act2": 0.125, "act3": 0.1}, "column_gate": 2},
    "gated": {"column_gate": "pair"},
}


def clips(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smooth noisy pictures, [count, 1, 32, 32], and their classes."""
    prototypes = torch.nn.functional.interpolate(
        torch.randn(CLASSES, 1, 8, 8, generator=torch.Generator().manual_seed(0)), size=32, mode="bilinear"
    )
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    return prototypes[y] + 0.3 * torch.randn(count, 1, 32, 32, generator=generator), y


def fitted(spec: dict) -> torch.nn.Module:
    """Return a network with settled batch norms and a fitted last layer."""
    torch.manual_seed(0)
    network = build_network(spec, CLASSES).train()
    if "sparsity" in spec:
        apply_masks(network, make_masks(network, spec, torch.Generator().manual_seed(0)))
    x, y = clips(CLIPS, seed=1)
    hidden = []
    network.linear2.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    with torch.no_grad():
        for _ in range(3):
            network(x)
        network.eval()(x)
        targets = 10 * torch.nn.functional.one_hot(y, CLASSES).float()
        features = hidden[-1]
        kernel = features @ features.T
        ridge = 0.1 * kernel.diagonal().mean()
        network.linear2.weight.copy_((features.T @ torch.linalg.solve(kernel + ridge * torch.eye(CLIPS), targets)).T)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--batch-sizes", type=int, nargs="+", required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    x, y = clips(CLIPS, seed=2)
    np.savez(options.folder / "test.npz", x=x.numpy(), y=y.numpy())
    calibration, labels = clips(CALIBRATION_CLIPS, seed=3)
    np.savez(options.folder / "calibration.npz", x=calibration.numpy(), y=labels.numpy())
    for name, spec in NETWORKS.items():
        network = fitted(spec)
        save_network(
            options.folder / f"{name}.pt", network, network=name, spec=spec, classes=[str(i) for i in range(CLASSES)]
        )
        with torch.no_grad():
            np.save(options.folder / f"{name}.npy", network(x).numpy())
        for batch_size in options.batch_sizes:
            onnx.save(to_onnx(network, batch_size), options.folder / f"{name}-batch{batch_size}.onnx")


if __name__ == "__main__":
    main()

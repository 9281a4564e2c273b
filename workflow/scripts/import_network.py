"""Take a network from an ONNX file into the study: its checked model, its samples, and what ONNX Runtime makes of them.

An entry that starts from it with a `sparsity` is the same network with its smallest weights removed, without any
training: it shows what sparsity would gain in speed, and nothing else, so its labels are left out.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import torch

from sparsemark.files import atomic_path, run_program, write_json
from sparsemark.models.own_network import OwnNetwork, read_own_network, run, weighted_layers
from sparsemark.networks.sparsity_patterns import check_layers
from sparsemark.networks.weight_masks import largest


def import_network(options: argparse.Namespace) -> None:
    """Write the results of the entry; `metrics.json` comes last."""
    spec, where = options.spec, f"networks.{options.network}"
    network = read_own_network(spec, options.onnx, options.calibration_samples)
    batch_size = network.batch_size or 1
    found = weighted_layers(network.model, batch_size, network.test[:1], options.onnx)
    pruned = bool(spec.get("sparsity"))
    if pruned:
        layers = {name: entry.layer for name, entry in found.items()}
        check_layers(spec, layers, where)
        weights = {name: torch.from_numpy(entry.weight().copy()) for name, entry in found.items()}
        masks = largest(layers, weights, spec["sparsity"], spec.get("pattern", "unstructured"))
        for name, mask in masks.items():
            found[name].set_weight((weights[name] * mask).numpy())
    logits = run(network.model, batch_size, network.test, str(options.onnx))
    labels = None if pruned else network.labels
    save(options.out, network, logits, labels)
    table = [
        {
            "name": name,
            "weights": entry.layer.weights,
            "nonzero_weights": (nonzero := int(np.count_nonzero(entry.weight()))),
            "macs": entry.layer.weights * entry.layer.uses,
            "nonzero_macs": nonzero * entry.layer.uses,
        }
        for name, entry in found.items()
    ]
    parameters = sum(
        int(np.prod(tensor.dims))
        for tensor in network.model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )
    metrics = {
        "network": options.network,
        "kind": "what-if" if pruned else "file",
        "unit": spec.get("unit", "samples"),
        "dataset": options.dataset,
        "title": network.title,
        "class_set": "",
        "seed": options.seed,
        "accuracy": None if labels is None else float(np.mean(logits.argmax(1) == labels)),
        "test_clips": len(network.test),
        "parameters": parameters,
        **{key: sum(row[key] for row in table) for key in ("weights", "nonzero_weights", "macs", "nonzero_macs")},
        "layers": table,
    }
    write_json(options.out / "metrics.json", metrics)


def save(out: Path, network: OwnNetwork, logits: np.ndarray, labels: np.ndarray | None) -> None:
    """Write the model, the samples and the reference logits in the forms of a trained network's."""
    with atomic_path(out / "model.onnx") as partial:
        onnx.save(network.model, partial)
    with atomic_path(out / "calibration.npz") as partial:
        np.savez(partial, x=network.calibration)
    with atomic_path(out / "test.npz") as partial:
        np.savez(partial, x=network.test, **({} if labels is None else {"y": labels}))
    with atomic_path(out / "logits.npy") as partial:
        np.save(partial, logits)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, required=True, help="the ONNX file")
    parser.add_argument("--network", required=True, help="its name in the configuration")
    parser.add_argument("--dataset", required=True, help="name of the entry that has the file")
    parser.add_argument("--spec", type=json.loads, required=True, help="JSON object: what its entries say")
    parser.add_argument("--calibration-samples", type=int, default=128, help="samples that calibrate, at most")
    parser.add_argument("--seed", type=int, default=1, help="for the row")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    torch.set_num_threads(1)
    import_network(parser.parse_args(arguments))


if __name__ == "__main__":
    run_program(main)

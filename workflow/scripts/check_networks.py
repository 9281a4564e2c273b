"""Build every network that is going to be trained, read every one that comes from a file, and check their entries.

The configuration can be read without PyTorch, a network's layers cannot: names of layers, patterns that do not fit
their shapes, modules that do not run and files that are no network or no samples are found here, before anything is
trained.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from sparsemark.files import InputError, run_program, write_json
from sparsemark.models.own_network import read_own_network, weighted_layers
from sparsemark.networks.layers import layers_of
from sparsemark.networks.network import check_network
from sparsemark.networks.sparsity_patterns import Layer, check_layers

#: Of the class sets of the study. The number changes nothing but the last layer.
CLASSES = 12


def file_layers(spec: dict, file: Path, where: str) -> dict[str, Layer]:
    """Return the layers of a network from a file, after checking it, its samples and what its entry asks of them."""
    try:
        network = read_own_network(spec, file, 1)
        found = weighted_layers(network.model, network.batch_size or 1, network.test[:1], file)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    layers = {name: entry.layer for name, entry in found.items()}
    check_layers(spec, layers, where)
    return layers


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=json.loads, required=True, help="JSON object: entries by name")
    parser.add_argument("--out", type=Path, required=True, help="JSON file: per network, its layers")
    parser.add_argument("--files", type=json.loads, default={}, help="JSON object: the ONNX files, by entry")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = {}
    for name, spec in options.networks.items():
        where = f"networks.{name}"
        if name in options.files:
            layers = file_layers(spec, Path(options.files[name]), where)
        else:
            layers = layers_of(check_network(spec, CLASSES, where))
        print(f"{name}: {len(layers)} layers, {sum(layer.weights * layer.uses for layer in layers.values()):,} MACs")
        found[name] = {layer: asdict(entry) for layer, entry in layers.items()}
    write_json(options.out, found)


if __name__ == "__main__":
    run_program(main)

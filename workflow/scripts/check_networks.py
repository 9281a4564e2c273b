"""Build every network that is going to be trained, and check what its entry asks of its layers.

The configuration can be read without PyTorch, a network's layers cannot: names of layers, patterns that do not fit
their shapes and modules that do not run are found here, before anything is downloaded or trained.
"""

import argparse
import json
from pathlib import Path

import torch

from sparsemark.files import run_program, write_json
from sparsemark.networks.layers import layer_table
from sparsemark.networks.network import check_network

#: Of the class sets of the study. The number changes nothing but the last layer.
CLASSES = 12


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=json.loads, required=True, help="JSON object: entries by name")
    parser.add_argument("--out", type=Path, required=True, help="JSON file: per network, its layers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tables = {
        name: layer_table(check_network(spec, CLASSES, f"networks.{name}")) for name, spec in options.networks.items()
    }
    for name, table in tables.items():
        print(f"{name}: {len(table)} layers, {sum(layer['macs'] for layer in table):,} multiply-accumulates a word")
    write_json(options.out, tables)


if __name__ == "__main__":
    run_program(main)

"""Bring a network from a file to the batch size of a case, and check that it computes what it did.

A file that was written for one batch size only may not be able to: its cases at other sizes are then `unsupported`.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx

from sparsemark.files import InputError, atomic_path, run_program
from sparsemark.models.own_network import at_batch_size, run

CHECKED_SAMPLES = 64
TOLERANCE = 1e-3


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model.onnx of import_network.py")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--samples", type=Path, required=True, help="test.npz")
    parser.add_argument("--logits", type=Path, required=True, help="logits.npy, what it makes of them")
    parser.add_argument("--out", type=Path, required=True, help="the .onnx file")
    options = parser.parse_args(arguments)
    refused = f"the file cannot be brought to a batch size of {options.batch_size}"
    with np.load(options.samples) as samples:
        x = samples["x"][:CHECKED_SAMPLES]
    expected = np.load(options.logits)[: len(x)]
    fixed = at_batch_size(onnx.load(options.model), options.batch_size, Path(refused))
    found = run(fixed, options.batch_size, x, refused)
    scale = float(np.abs(expected).max())
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * scale):
        raise InputError(f"{refused}: it computes something else then")
    with atomic_path(options.out) as partial:
        onnx.save(fixed, partial)


if __name__ == "__main__":
    run_program(main)

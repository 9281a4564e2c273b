"""Write an ONNX network as an MNN file whose sparse layers, from 60 % of zeros on, run MNN's sparse convolutions.

MNN's converter decides layer by layer and stores only the non-zero weights of a sparse one.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from sparsemark.files import InputError, atomic_path, run_program

#: The converter as a function. Its command line, `mnnconvert`, would install a package that reports every conversion
#: to MNN's makers. In a process of its own, because it tells what is wrong in its output only.
CONVERTER = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"


def convert(model: Path, out: Path) -> None:
    """Write the ONNX file `model` as the MNN file `out`.

    Raises:
        InputError: MNN's converter does not take the model; with what it says.
    """
    with atomic_path(out) as partial:
        options = ["-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(partial), "--detectSparseSpeedUp"]
        command = [sys.executable, "-c", CONVERTER, *options]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        print(result.stdout, end="", flush=True)
        if not partial.exists():
            told = re.search(r"^.*(?:not support|not exist|error|fail).*$", result.stdout, re.IGNORECASE | re.MULTILINE)
            reason = re.sub(r"^\[[\d:]+\] :\d+: ", "", told[0]) if told else f"exit status {result.returncode}"
            raise InputError(f"{model}: MNN's converter does not take it ({reason.strip()})")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="FP32 ONNX file with a fixed batch size")
    parser.add_argument("--out", type=Path, required=True, help=".mnn file to write")
    options = parser.parse_args(arguments)
    convert(options.model, options.out)
    print(f"{options.out}: FP32")


if __name__ == "__main__":
    run_program(main)

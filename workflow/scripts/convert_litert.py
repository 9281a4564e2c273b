"""Write an ONNX network as an FP32 LiteRT (TensorFlow Lite) file (see models/litert_file.py)."""

import argparse
from pathlib import Path

from sparsemark.files import run_program
from sparsemark.models.litert_file import convert


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="FP32 ONNX file with a fixed batch size")
    parser.add_argument("--out", type=Path, required=True, help=".tflite file to write")
    options = parser.parse_args(arguments)
    convert(options.model, options.out)
    print(f"{options.out}: FP32")


if __name__ == "__main__":
    run_program(main)

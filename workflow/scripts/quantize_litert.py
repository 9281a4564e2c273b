"""Write an ONNX network as a full-integer INT8 LiteRT file, calibrated on training clips (see convert_litert.py)."""

from sparsemark.files import run_program
from sparsemark.models.litert_file import convert
from sparsemark.models.quantization import parse_arguments


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(__doc__, arguments)
    convert(options.model, options.out, options.calibration)
    print(f"{options.out}: INT8")


if __name__ == "__main__":
    run_program(main)

"""Quantise an ONNX network to INT8 in the form that DeepSparse compiles itself (see models/deepsparse_quantizer.py)."""

from sparsemark.files import run_program
from sparsemark.models.deepsparse_quantizer import quantize
from sparsemark.models.quantization import parse_arguments


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(__doc__, arguments)
    left_in_fp32 = quantize(options.model, options.calibration, options.out)
    print(f"{options.out}: INT8, FP32 in {' '.join(left_in_fp32) or 'no layer'}")


if __name__ == "__main__":
    run_program(main)

"""Quantise an ONNX network to INT8 with OpenVINO's own tool, NNCF, calibrated on training clips.

The result is an ONNX file with QuantizeLinear and DequantizeLinear, which OpenVINO fuses when it compiles. NNCF says
the same in OpenVINO's own format, and the compiled network is the same; one file is easier to handle than two.
Where this CPU's 8-bit products saturate, weights have 7 bits (see `models/saturation.py`).
"""

from sparsemark.files import run_program
from sparsemark.models import saturation
from sparsemark.models.nncf_quantizer import quantize
from sparsemark.models.quantization import KEEP_ORDER, parse_arguments


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(
        __doc__,
        arguments,
        operators_in_fp32={"nargs": "*", "default": (), "metavar": "TYPE", "help": "operator types to leave in FP32"},
        left_in_fp32={"nargs": "*", "default": (), "metavar": "NODE", "help": "nodes to leave in FP32"},
        keep_order=KEEP_ORDER,
    )
    quantize(
        options.model,
        options.calibration,
        options.out,
        tuple(options.operators_in_fp32),
        tuple(options.left_in_fp32),
        options.keep_order,
        saturation.saturates(),
    )
    print(f"{options.out}: INT8")


if __name__ == "__main__":
    run_program(main)

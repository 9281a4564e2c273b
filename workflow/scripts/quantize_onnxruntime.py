"""Quantise an ONNX network to INT8 with ONNX Runtime's static quantisation, calibrated on training clips.

Activations become uint8 with a zero point, weights int8, symmetric, with one scale per output channel. Two forms:

    qoperator  integer operators (QLinearConv, QLinearMatMul, ...) in the graph
    qdq        FP32 operators between QuantizeLinear and DequantizeLinear

Where this CPU's 8-bit products saturate, weights have 7 bits (see `models/saturation.py`).

Max-pooling stays in FP32 unless it is named among the operators: ablate_quantization shows what that does.
"""

from sparsemark.files import run_program
from sparsemark.models import saturation
from sparsemark.models.onnxruntime_quantizer import FORMS, METHODS, OPERATORS, quantize
from sparsemark.models.quantization import KEEP_ORDER, parse_arguments


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(
        __doc__,
        arguments,
        form={"choices": FORMS, "default": "qoperator", "help": "how the graph says INT8 (default: %(default)s)"},
        method={"choices": METHODS, "default": "minmax", "help": "range of an activation (default: %(default)s)"},
        operators={"nargs": "+", "default": OPERATORS, "metavar": "TYPE", "help": "operator types to quantise"},
        left_in_fp32={"nargs": "*", "default": (), "metavar": "NODE", "help": "nodes to leave in FP32"},
        keep_order=KEEP_ORDER,
    )
    quantize(
        options.model,
        options.calibration,
        options.out,
        options.form,
        tuple(options.operators),
        tuple(options.left_in_fp32),
        options.method,
        options.keep_order,
        reduce_range=saturation.saturates(),
    )
    print(f"{options.out}: INT8, {options.form}")


if __name__ == "__main__":
    run_program(main)

"""Quantise an ONNX network to INT8 so that any engine can read how: QuantizeLinear and DequantizeLinear pairs.

A pair stands before every convolution and matrix product, and nowhere else: activations are rounded once, to uint8,
and weights are int8, symmetric, with one scale per output channel. ONNX Runtime's tool calibrates it.
"""

from sparsemark.files import run_program
from sparsemark.models.onnxruntime_quantizer import METHODS, quantize
from sparsemark.models.quantization import KEEP_ORDER, parse_arguments


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(
        __doc__,
        arguments,
        method={"choices": METHODS, "default": "minmax", "help": "range of an activation (default: %(default)s)"},
        keep_order=KEEP_ORDER,
    )
    quantize(
        options.model,
        options.calibration,
        options.out,
        "qdq",
        operators=("Conv", "MatMul", "Gemm"),
        method=options.method,
        keep_order=options.keep_order,
        inputs_only=True,
    )
    print(f"{options.out}: INT8")


if __name__ == "__main__":
    run_program(main)

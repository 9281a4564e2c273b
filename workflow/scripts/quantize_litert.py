"""Quantise an ONNX network to a full-integer INT8 LiteRT file with LiteRT's own tool, calibrated on training clips.

The network becomes an FP32 LiteRT file first (see convert_litert.py). In the INT8 form, activations are int8 with a
zero point, weights int8, symmetric, with one scale per output channel, biases int32. Input and output stay float32.
"""

import tempfile
from pathlib import Path

from sparsemark.files import atomic_path, run_program
from sparsemark.models.calibration import batches, load_calibration
from sparsemark.models.litert_file import SIGNATURE, convert
from sparsemark.models.onnx_model import batch_size_of, load_model
from sparsemark.models.quantization import parse_arguments


def quantize(model_path: Path, calibration: Path, out: Path) -> None:
    """Write the INT8 form of `model_path` to `out`.

    Raises:
        InputError: an unusable model or calibration file, or an operator that has no counterpart in LiteRT.
    """
    from ai_edge_quantizer import qtyping, quantizer, recipe

    model = load_model(model_path)
    name, clips = model.graph.input[0].name, load_calibration(calibration)
    samples = [{name: batch} for batch in batches(clips, batch_size_of(model))]
    with tempfile.TemporaryDirectory() as folder, atomic_path(out) as partial:
        fp32 = Path(folder, "fp32.tflite")
        convert(model_path, fp32)
        tool = quantizer.Quantizer(str(fp32), recipe.static_wi8_ai8())
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            tool.update_quantization_recipe(regex=".*", operation_name=end, algorithm_key="no_quantize")
        result = tool.quantize(tool.calibrate({SIGNATURE: samples}))
        partial.write_bytes(result.quantized_model)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(__doc__, arguments)
    quantize(options.model, options.calibration, options.out)
    print(f"{options.out}: INT8")


if __name__ == "__main__":
    run_program(main)

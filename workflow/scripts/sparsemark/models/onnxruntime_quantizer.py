"""INT8 by ONNX Runtime's static quantisation."""

import os
import tempfile
from pathlib import Path

import onnx

from sparsemark.files import atomic_path
from sparsemark.models import saturation
from sparsemark.models.calibration import batches, load_calibration
from sparsemark.models.onnx_model import batch_size_of, check_nodes, load_model

FORMS = ("qoperator", "qdq")
METHODS = ("minmax", "entropy", "percentile")
#: What is quantised unless the caller says otherwise. ONNX Runtime fuses a ReLU into the integer convolution.
OPERATORS = ("Conv", "MatMul", "Gemm", "Relu")


def quantize(
    model_path: Path,
    calibration: Path,
    out: Path,
    form: str,
    operators: tuple[str, ...] = OPERATORS,
    left_in_fp32: tuple[str, ...] = (),
    method: str = "minmax",
    keep_order: bool = False,
    inputs_only: bool = False,
    reduce_range: bool = False,
) -> None:
    """Write the INT8 form of `model_path` to `out`.

    Args:
        operators: the ONNX operator types to quantise.
        left_in_fp32: names of nodes to leave out although their type is among `operators`.
        method: how the calibration clips give the range of an activation, one of METHODS.
        keep_order: leave each ReLU behind its max-pool (see `quantization.relu_before_pool`).
        inputs_only: in form qdq, round only what enters an operator, not what leaves it.
        reduce_range: weights of 7 bits, whose products cannot saturate (see `saturation`).

    Raises:
        InputError: an unusable model or calibration file, or a name in `left_in_fp32` that the graph lacks.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = load_model(model_path, keep_order)
    check_nodes(model, left_in_fp32, model_path)
    chosen = [name for name in operators if name in {node.op_type for node in model.graph.node}]
    input_name = model.graph.input[0].name
    clips = load_calibration(calibration)

    class Clips(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = batches(clips, batch_size_of(model))

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {input_name: batch}

    with tempfile.TemporaryDirectory() as folder, atomic_path(out) as partial:
        plain, prepared = os.path.join(folder, "plain.onnx"), os.path.join(folder, "prepared.onnx")
        onnx.save(model, plain)
        # Without it ONNX Runtime lacks the shapes to fold batch norms; the nodes that stay keep their names.
        quant_pre_process(plain, prepared, skip_symbolic_shape=True, skip_optimization=bool(left_in_fp32))
        quantize_static(
            prepared,
            partial,
            Clips(),
            quant_format=QuantFormat.QOperator if form == "qoperator" else QuantFormat.QDQ,
            op_types_to_quantize=chosen,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=reduce_range,
            nodes_to_exclude=list(left_in_fp32),
            calibrate_method={
                "minmax": CalibrationMethod.MinMax,
                "entropy": CalibrationMethod.Entropy,
                "percentile": CalibrationMethod.Percentile,
            }[method],
            extra_options={"OpTypesToExcludeOutputQuantization": chosen if inputs_only else []},
        )
        quantized = onnx.load(partial)
        saturation.record(quantized, "weights of 7 bits" if reduce_range else "")
        onnx.save(quantized, partial)

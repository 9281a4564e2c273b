"""INT8 by NNCF, OpenVINO's own tool."""

import logging
from pathlib import Path

import onnx

from sparsemark.files import atomic_path
from sparsemark.models import saturation
from sparsemark.models.calibration import batches, load_calibration
from sparsemark.models.onnx_model import batch_size_of, check_nodes, load_model

#: Operators that choose the k winners and the columns of a gate. NNCF would round each side of the comparison on a
#: scale of its own, and the largest value then need not be as large as itself: a gate stays shut.
DECIDING = ("TopK", "GreaterOrEqual")


def quantize(
    model_path: Path,
    calibration: Path,
    out: Path,
    operators_in_fp32: tuple[str, ...] = (),
    left_in_fp32: tuple[str, ...] = (),
    keep_order: bool = False,
    reduce_range: bool = False,
) -> None:
    """Write the INT8 form of `model_path` to `out`.

    Args:
        operators_in_fp32: ONNX operator types to leave in FP32, besides DECIDING.
        left_in_fp32: names of nodes to leave in FP32.
        keep_order: leave each ReLU behind its max-pool (see `quantization.relu_before_pool`).
        reduce_range: weights of 7 bits in every layer, whose products cannot saturate (see `saturation`).

    Raises:
        InputError: an unusable model or calibration file, or a name in `left_in_fp32` that the graph lacks.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = load_model(model_path, keep_order)
    check_nodes(model, left_in_fp32, model_path)
    input_name = model.graph.input[0].name
    clips = list(batches(load_calibration(calibration), batch_size_of(model)))
    quantized = nncf.quantize(
        model,
        nncf.Dataset(clips, lambda batch: {input_name: batch}),
        # Symmetric weights; activations asymmetric only where they are signed.
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(clips),
        ignored_scope=nncf.IgnoredScope(
            names=list(left_in_fp32), types=[*DECIDING, *operators_in_fp32], validate=False
        ),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE if reduce_range else nncf.OverflowFix.DISABLE
        ),
    )
    saturation.record(quantized, "weights of 7 bits" if reduce_range else "")
    with atomic_path(out) as partial:
        onnx.save(quantized, partial)

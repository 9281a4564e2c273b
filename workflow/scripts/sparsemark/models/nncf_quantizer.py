"""INT8 by NNCF, OpenVINO's own tool."""

import logging
from pathlib import Path

import onnx

from sparsemark.files import atomic_path
from sparsemark.models.calibration import batches, load_calibration
from sparsemark.models.onnx_model import batch_size_of, check_nodes, load_model


def quantize(
    model_path: Path,
    calibration: Path,
    out: Path,
    operators_in_fp32: tuple[str, ...] = (),
    left_in_fp32: tuple[str, ...] = (),
    keep_order: bool = False,
) -> None:
    """Write the INT8 form of `model_path` to `out`.

    Args:
        operators_in_fp32: ONNX operator types to leave in FP32.
        left_in_fp32: names of nodes to leave in FP32.
        keep_order: leave each ReLU behind its max-pool (see `quantization.relu_before_pool`).

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
        ignored_scope=nncf.IgnoredScope(names=list(left_in_fp32), types=list(operators_in_fp32), validate=False),
    )
    with atomic_path(out) as partial:
        onnx.save(quantized, partial)

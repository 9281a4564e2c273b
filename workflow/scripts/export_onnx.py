"""Export a trained network to ONNX for one batch size, and check it against PyTorch on real features."""

import argparse
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from sparsemark.files import InputError, atomic_path, run_program
from sparsemark.networks.layers import INPUT_SHAPE, layers_of
from sparsemark.networks.network import load_network

#: Old enough for every engine (DeepSparse takes up to 16), new enough for per-channel quantisation.
OPSET = 13
CHECKED_CLIPS = 256
TOLERANCE = 1e-4
#: A rounding difference may make another unit win by a hair, which moves the logits of that clip.
CLOSE_SHARE_WITH_WINNERS = 0.9


def to_onnx(model: nn.Module, batch_size: int) -> onnx.ModelProto:
    """Return `model` as ONNX with the fixed input "input", [batch_size, 1, 32, 32], and the output "logits".

    The batch norms are folded into the convolutions. Initialisers are named after the layers (`conv1.weight`,
    `conv1.bias`); those of linear layers are [inputs, outputs]. The same network gives the same bytes.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter, to which it points, works at opset 18 and converts down from there.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model.eval(),
            (torch.zeros(batch_size, *INPUT_SHAPE),),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["logits"],
        )
    exported = onnx.load_from_string(buffer.getvalue())
    # DeepSparse refuses models that import operator sets it does not know, used or not.
    used = {node.domain for node in exported.graph.node}
    kept = [opset for opset in exported.opset_import if opset.domain in used]
    del exported.opset_import[:]
    exported.opset_import.extend(kept)
    rename_initialisers(exported.graph, model)
    onnx.checker.check_model(exported)
    return exported


def rename_initialisers(graph: onnx.GraphProto, model: nn.Module) -> None:
    """Name the weights and biases after their layers instead of the exporter's running numbers.

    The exporter follows a sample through the network, and so did `layers_of`: the order is the same. What computes with
    weights and is no layer (a module's own parameter) is passed over, as its shape tells.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    layers = {name: tuple(model.get_submodule(name).weight.shape) for name in layers_of(model)}
    waiting, names = list(layers), {}
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.input[1] not in shapes or not waiting:
            continue
        if shapes[node.input[1]] in (layers[waiting[0]], layers[waiting[0]][::-1]):
            layer = waiting.pop(0)
            names.update(zip(node.input[1:3], (f"{layer}.weight", f"{layer}.bias"), strict=False))
    if waiting:
        raise InputError(f"{waiting[0]}: expected its weights in the ONNX file (is the layer used more than once?)")
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for initialiser in graph.initializer:
        initialiser.name = names.get(initialiser.name, initialiser.name)


def check(exported: onnx.ModelProto, model: nn.Module, x: np.ndarray, expected: np.ndarray, where: Path) -> None:
    """Hold the ONNX network to PyTorch's logits, `expected`, of the features `x`, and to its zeros.

    Raises:
        InputError: `where` names the network whose logits or zeros differ.
    """
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in exported.graph.initializer}
    for name in layers_of(model):
        kept = int(torch.count_nonzero(model.get_submodule(name).weight))
        found = int(np.count_nonzero(weights[f"{name}.weight"]))
        if found != kept:
            raise InputError(f"{where}: {name}: the ONNX file has {found} non-zero weights, expected {kept}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batch_size = session.get_inputs()[0].shape[0]
    rows = min(len(x), CHECKED_CLIPS)
    padded = np.concatenate([x[:rows], np.zeros((-rows % batch_size, *x.shape[1:]), np.float32)])
    batches = [session.run(None, {"input": batch})[0] for batch in np.split(padded, len(padded) // batch_size)]
    close = np.isclose(np.concatenate(batches)[:rows], expected[:rows], rtol=TOLERANCE, atol=TOLERANCE).all(axis=1)
    has_winners = any(node.op_type == "TopK" for node in exported.graph.node)
    if close.mean() < (CLOSE_SHARE_WITH_WINNERS if has_winners else 1):
        raise InputError(
            f"{where}: the ONNX file's logits differ from PyTorch's on {rows - close.sum()} of {rows} clips"
        )


def export(options: argparse.Namespace) -> None:
    """Write the ONNX file of one network and batch size."""
    if options.batch_size < 1:
        raise InputError(f"batch size: expected at least 1, got {options.batch_size}")
    model, _ = load_network(options.model)
    exported = to_onnx(model, options.batch_size)
    with np.load(options.features) as features:
        check(exported, model, features["x"], np.load(options.logits), options.model)
    with atomic_path(options.out) as partial:
        onnx.save(exported, partial)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model.pt of a trained network")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--features", type=Path, required=True, help="test.npz, the features of the test clips")
    parser.add_argument("--logits", type=Path, required=True, help="logits.npy, what PyTorch made of them")
    parser.add_argument("--out", type=Path, required=True, help="the .onnx file")
    export(parser.parse_args(arguments))


if __name__ == "__main__":
    run_program(main)

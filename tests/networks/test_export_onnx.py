"""The ONNX files, in ONNX Runtime and by their bytes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import export_onnx
from sparsemark.files import InputError
from sparsemark.networks.network import build_network, save_network
from sparsemark.networks.training import predict

SPECS = {
    "dense": {},
    "k_winners": {"k_winners": {"act1": 0.095, "act2": 0.125, "act3": 0.1}},
    "gated": {"column_gate": 2},
}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(70, 1, 32, 32)).astype(np.float32)


def saved(folder: Path, x: np.ndarray, name: str) -> Path:
    """Write a network with realistic batch norms and some zero weights, its logits and its features."""
    torch.manual_seed(1)
    model = build_network(SPECS[name], 12)
    with torch.no_grad():
        model.conv2.weight[:, ::3] = 0
        model.linear1.weight[::2] = 0
        for _ in range(3):
            model(torch.from_numpy(x))
    model.eval()
    save_network(folder / "model.pt", model, network=name, spec=SPECS[name], classes=[str(i) for i in range(12)])
    np.save(folder / "logits.npy", predict(model, torch.from_numpy(x)).numpy())
    np.savez(folder / "test.npz", x=x, y=np.zeros(len(x), np.int64))
    return folder


def export(folder: Path, batch_size: int) -> Path:
    out = folder / f"batch{batch_size}.onnx"
    export_onnx.main(
        [
            *("--model", str(folder / "model.pt"), "--batch-size", str(batch_size), "--out", str(out)),
            *("--features", str(folder / "test.npz"), "--logits", str(folder / "logits.npy")),
        ]
    )
    return out


@pytest.mark.parametrize("name", SPECS)
def test_same_logits_same_zeros_same_bytes(tmp_path: Path, x: np.ndarray, name: str) -> None:
    folder = saved(tmp_path, x, name)
    out = export(folder, 4)
    model = onnx.load(out)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 13)]
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert (weights["conv2.weight"][:, ::3] == 0).all()
    assert (weights["conv2.weight"] != 0).mean() == pytest.approx(42 / 64)
    assert (weights["linear1.weight"][:, ::2] == 0).all()
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("input", [4, 1, 32, 32])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", [4, 12])]
    logits = np.concatenate([session.run(None, {"input": x[i : i + 4]})[0] for i in range(0, 68, 4)])
    expected = np.load(folder / "logits.npy")[:68]
    assert np.isclose(logits, expected, atol=1e-5).all(axis=1).mean() > 0.95
    first = out.read_bytes()
    assert export(folder, 4).read_bytes() == first


def test_other_logits_and_lost_zeros_are_refused(tmp_path: Path, x: np.ndarray) -> None:
    folder = saved(tmp_path, x, "dense")
    model, _ = export_onnx.load_network(folder / "model.pt")
    exported, logits = export_onnx.to_onnx(model, 16), np.load(folder / "logits.npy")
    export_onnx.check(exported, model, x, logits, folder)
    with pytest.raises(InputError, match="differ from PyTorch's on 1 of 70 clips"):
        export_onnx.check(exported, model, x, logits + 0.01 * (np.arange(70) == 3)[:, None], folder)
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = 0
    with pytest.raises(InputError, match="conv1: the ONNX file has 1600 non-zero weights, expected 1599"):
        export_onnx.check(exported, model, x, logits, folder)
    with pytest.raises(InputError, match="batch size: expected at least 1, got 0"):
        export(folder, 0)

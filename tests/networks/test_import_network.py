"""Networks from files: held against PyTorch, which made them, and everything that a wrong file may be."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import check_networks
import fix_batch_size
import import_network
from sparsemark.files import InputError
from sparsemark.models.own_network import read_own_network, weighted_layers
from sparsemark.networks.layers import layers_of

SHAPE, CLASSES, SAMPLES = (3, 20, 16), 7, 40


def picture_network() -> nn.Module:
    """A network that is no keyword spotter: colours, another shape, padding, a depthwise convolution."""
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 5 * 4, CLASSES),
    )
    network(torch.randn(64, *SHAPE))
    return network.eval()


def to_file(network: nn.Module, path: Path, batch_size: int | None = None, shape: tuple[int, ...] = SHAPE) -> Path:
    """Export with an open batch size, or a fixed one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(batch_size or 2, *shape),),
            path,
            dynamo=False,
            opset_version=11,
            input_names=["picture"],
            output_names=["classes"],
            dynamic_axes=None if batch_size else {"picture": {0: "n"}, "classes": {0: "n"}},
        )
    return path


def samples(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(SAMPLES, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, SAMPLES)


def imported(folder: Path, file: Path, **entry: object) -> dict:
    out = folder / "out"
    arguments = ["--onnx", file, "--network", "mine", "--dataset", "mine", "--out", out, "--calibration-samples", 16]
    import_network.main([str(part) for part in (*arguments, "--spec", json.dumps({"onnx": str(file), **entry}))])
    return json.loads((out / "metrics.json").read_text())


def at_batch(folder: Path, batch_size: int) -> onnx.ModelProto:
    out = folder / f"batch{batch_size}.onnx"
    options = {name: folder / "out" / file for name, file in FILES.items()}
    arguments = [part for name, path in options.items() for part in (f"--{name}", str(path))]
    fix_batch_size.main([*arguments, "--batch-size", str(batch_size), "--out", str(out)])
    return onnx.load(out)


FILES = {"model": "model.onnx", "samples": "test.npz", "logits": "logits.npy"}


@pytest.mark.parametrize("file_batch", [None, 1])
def test_a_file_s_network_computes_what_pytorch_does(tmp_path: Path, file_batch: int | None) -> None:
    network, (x, y) = picture_network(), samples()
    np.savez(tmp_path / "my.npz", x=x, y=y)
    file = to_file(network, tmp_path / "my.onnx", file_batch)
    metrics = imported(tmp_path, file, data=str(tmp_path / "my.npz"), unit="pictures")
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()[16:]
    np.testing.assert_allclose(np.load(tmp_path / "out/logits.npy"), expected, atol=1e-4)
    assert metrics["accuracy"] == pytest.approx(np.mean(expected.argmax(1) == y[16:]))
    assert (metrics["kind"], metrics["unit"], metrics["title"]) == ("file", "pictures", "my.npz")
    layers = layers_of(network, SHAPE)
    assert metrics["macs"] == sum(layer.weights * layer.uses for layer in layers.values())
    assert metrics["nonzero_weights"] == metrics["weights"] == sum(layer.weights for layer in layers.values())
    np.testing.assert_array_equal(np.load(tmp_path / "out/calibration.npz")["x"], x[:16])
    for batch_size in (1, 5):
        fixed = at_batch(tmp_path, batch_size)
        assert not any(node.op_type in ("BatchNormalization", "Constant", "Shape") for node in fixed.graph.node)
        session = onnxruntime.InferenceSession(fixed.SerializeToString(), providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape == [batch_size, *SHAPE]
        assert session.get_outputs()[0].shape == [batch_size, CLASSES]
        found = session.run(None, {"picture": x[16 : 16 + batch_size]})[0]
        np.testing.assert_allclose(found, expected[:batch_size], atol=1e-4)


def test_layers_of_a_file_are_those_of_its_network(tmp_path: Path) -> None:
    network, (x, y) = picture_network(), samples()
    np.savez(tmp_path / "my.npz", x=x, y=y)
    file = to_file(network, tmp_path / "my.onnx")
    read = read_own_network({"data": str(tmp_path / "my.npz")}, file, 16)
    found = weighted_layers(read.model, 1, read.test[:1], file)
    assert [entry.layer for entry in found.values()] == list(layers_of(network, SHAPE).values())
    for entry, weight in zip(found.values(), (network[0], network[3], network[5], network[8]), strict=True):
        assert entry.weight().shape == tuple(weight.weight.shape)
    # The head's weights, which no batch norm was folded into.
    np.testing.assert_array_equal(list(found.values())[-1].weight(), network[8].weight.detach().numpy())


@pytest.mark.parametrize(("pattern", "sparsity"), [("unstructured", 0.8), ("block16", 0.5), ("block4", None)])
def test_a_what_if_keeps_the_largest_weights_and_has_no_accuracy(
    tmp_path: Path, pattern: str, sparsity: float | None
) -> None:
    network, (x, y) = picture_network(), samples()
    np.savez(tmp_path / "my.npz", x=x, y=y)
    file = to_file(network, tmp_path / "my.onnx")
    asked = sparsity or dict.fromkeys([*_names(file)][-2:], 0.75)
    metrics = imported(tmp_path, file, data=str(tmp_path / "my.npz"), start="mine", sparsity=asked, pattern=pattern)
    assert metrics["kind"] == "what-if" and metrics["accuracy"] is None
    assert "y" not in np.load(tmp_path / "out/test.npz").files
    left = metrics["nonzero_weights"] / metrics["weights"]
    if sparsity:
        assert left == pytest.approx(1 - sparsity, abs=0.05)
    # What is left computes what PyTorch does with the same zeros.
    pruned = onnx.load(tmp_path / "out/model.onnx")
    head = next(t for t in pruned.graph.initializer if sorted(t.dims) == [CLASSES, 640])
    weight = numpy_helper.to_array(head)
    weight = weight if weight.shape[0] == CLASSES else weight.T
    before = network[8].weight.detach().numpy()
    assert 0 < np.count_nonzero(weight) < weight.size
    np.testing.assert_array_equal(weight[weight != 0], before[weight != 0])
    if pattern == "unstructured":
        assert np.abs(before[weight != 0]).min() >= np.abs(before[weight == 0]).max()
    if pattern == "block4":
        blocks = weight.reshape(CLASSES, 8, 4, 20) != 0
        assert (blocks.any(axis=2) == blocks.all(axis=2)).all()
        assert blocks.mean() == pytest.approx(0.25)


def _names(file: Path) -> list[str]:
    read = read_own_network({"range": [0, 1]}, file, 16)
    return list(weighted_layers(read.model, 1, read.test[:1], file))


def test_without_data_the_samples_are_random_and_the_title_says_so(tmp_path: Path) -> None:
    metrics = imported(tmp_path, to_file(picture_network(), tmp_path / "my.onnx"), range=[-2, 3])
    test = np.load(tmp_path / "out/test.npz")
    assert metrics["title"] == "random numbers from -2 to 3" and metrics["accuracy"] is None
    assert test.files == ["x"] and test["x"].shape == (240, *SHAPE)
    assert -2 <= test["x"].min() < -1.9 and 2.9 < test["x"].max() <= 3


def test_an_open_size_is_the_samples_and_a_further_input_one_value(tmp_path: Path) -> None:
    """y = mean over time of w * x + shift, of an open length."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "shift"], ["moved"]),
            helper.make_node("ReduceMean", ["moved"], ["y"], axes=[1], keepdims=0),
        ],
        "sequence",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 4]),
            helper.make_tensor_value_info("shift", TensorProto.FLOAT, [3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "sequence.onnx")
    x = np.random.default_rng(0).normal(size=(10, 6, 4)).astype(np.float32)
    np.savez(tmp_path / "my.npz", x=x, shift=np.array([1, 2, 3]))
    metrics = imported(tmp_path, tmp_path / "sequence.onnx", data=str(tmp_path / "my.npz"))
    expected = (x @ np.arange(12, dtype=np.float32).reshape(4, 3)).mean(axis=1) + np.array([1, 2, 3])
    np.testing.assert_allclose(np.load(tmp_path / "out/logits.npy"), expected[5:], rtol=1e-4, atol=1e-4)
    assert metrics["macs"] == 6 * 12
    np.savez(tmp_path / "less.npz", x=x)
    for entry, message in (
        ({"data": str(tmp_path / "less.npz")}, r"less\.npz: expected a value for the input 'shift'"),
        ({"range": [0, 1]}, r"sequence\.onnx: it needs 'data', an npz file with a value for the input 'shift'"),
    ):
        with pytest.raises(InputError, match=message):
            read_own_network(entry, tmp_path / "sequence.onnx", 16)
    del model.graph.input[1]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "shift"))
    onnx.save(model, tmp_path / "open.onnx")
    with pytest.raises(InputError, match=r"open\.onnx: input 'x': expected fixed sizes .* found \[0, 4\]"):
        read_own_network({"range": [0, 1]}, tmp_path / "open.onnx", 16)


def wrong_arrays() -> dict[str, tuple[dict, str]]:
    x, y = samples()
    broken = x.copy()
    broken[3, 1, 2, 3] = np.nan
    return {
        "nan": ({"x": broken}, "x: expected finite numbers, found 1 others"),
        "objects": ({"x": np.array([{}, {}], dtype=object)}, "expected an npz file of plain numbers, without objects"),
        "text": ({"x": x, "y": np.array(["a"] * SAMPLES)}, "y: expected numbers, found"),
        "other name": ({"pictures": x}, r"expected an array 'picture' or 'x' with the samples, found \['pictures'\]"),
        "other shape": ({"x": x[:, :, :19]}, r"x: expected \[samples, 3, 20, 16\], 0 for any, got \(40, 3, 19, 16\)"),
        "one sample": ({"x": x[:1]}, "x: expected at least 2 samples"),
        "few labels": ({"x": x, "y": y[:9]}, r"y: expected 40 whole numbers, one label .* got int64 \(9,\)"),
        "no whole labels": ({"x": x, "y": y + 0.5}, "y: expected 40 whole numbers"),
        "a label too many": (
            {"x": x, "y": y + 1},
            "y: expected labels from 0 to 6, as the network has outputs, got 1 to 7",
        ),
    }


@pytest.mark.parametrize("name", wrong_arrays())
def test_wrong_samples_are_one_sentence_at_the_start(tmp_path: Path, name: str) -> None:
    arrays, message = wrong_arrays()[name]
    np.savez(tmp_path / "my.npz", **arrays)
    file = to_file(picture_network(), tmp_path / "my.onnx")
    refused(tmp_path, file, {"data": str(tmp_path / "my.npz")}, rf"networks\.mine: .*my\.npz: {message}")


def refused(folder: Path, file: Path, entry: dict, message: str) -> None:
    """Hold the check at the start of the study to its sentence."""
    networks, files = {"mine": {"onnx": str(file), **entry}}, {"mine": str(file)}
    arguments = [
        "--networks",
        json.dumps(networks),
        "--files",
        json.dumps(files),
        "--out",
        str(folder / "checked.json"),
    ]
    with pytest.raises(InputError, match=message) as caught:
        check_networks.main(arguments)
    assert "\n" not in str(caught.value) and not (folder / "checked.json").exists()


def test_files_that_are_no_network_are_one_sentence(tmp_path: Path) -> None:
    entry = {"range": [0, 1]}
    refused(tmp_path, tmp_path / "none.onnx", entry, r"none\.onnx: expected an ONNX file, but there is no such file")
    (tmp_path / "text.onnx").write_text("no network at all")
    refused(tmp_path, tmp_path / "text.onnx", entry, r"text\.onnx: expected a valid ONNX file")
    file = to_file(picture_network(), tmp_path / "my.onnx")
    (tmp_path / "half.onnx").write_bytes(file.read_bytes()[:-2000])
    refused(tmp_path, tmp_path / "half.onnx", entry, r"half\.onnx: expected a valid ONNX file")
    refused(tmp_path, file, {"data": str(tmp_path / "none.npz")}, r"none\.npz: expected an npz file, but there is no")
    (tmp_path / "text.npz").write_text("no samples")
    refused(tmp_path, file, {"data": str(tmp_path / "text.npz")}, r"text\.npz: expected an npz file of plain numbers")
    model = onnx.load(file)
    model.graph.output.append(
        helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, [1, 16, 10, 8])
    )
    onnx.save(model, tmp_path / "two.onnx")
    refused(tmp_path, tmp_path / "two.onnx", entry, r"expected a network with one output, found 'classes', ")
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    plain = helper.make_model(
        helper.make_graph([node], "relu", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.save(plain, tmp_path / "relu.onnx")
    refused(tmp_path, tmp_path / "relu.onnx", entry, "expected convolutions or matrix products with constant weights")
    node.op_type = "Unheard"
    node.domain = "elsewhere"
    plain.graph.node[0].CopyFrom(node)
    plain.opset_import.append(helper.make_opsetid("elsewhere", 1))
    onnx.save(plain, tmp_path / "unheard.onnx")
    refused(tmp_path, tmp_path / "unheard.onnx", entry, r"unheard\.onnx: ONNX Runtime does not run it")


def test_a_what_if_names_layers_that_exist(tmp_path: Path) -> None:
    file = to_file(picture_network(), tmp_path / "my.onnx")
    entry = {"range": [0, 1], "start": "mine", "sparsity": {"conv9": 0.5}}
    refused(tmp_path, file, entry, r"networks\.mine\.sparsity: layer 'conv9' does not exist \(expected one of ")


def test_a_file_that_knows_one_batch_size_only_says_so(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        """Adds up over all samples of the batch: another batch is another result."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = picture_network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.inner(x)
            return y + y.sum(dim=0, keepdim=True)

    imported(tmp_path, to_file(Fixed(), tmp_path / "my.onnx", 1), range=[0, 1])
    at_batch(tmp_path, 1)
    with pytest.raises(InputError, match="cannot be brought to a batch size of 4: it computes something else then"):
        at_batch(tmp_path, 4)
    assert not (tmp_path / "batch4.onnx").exists()

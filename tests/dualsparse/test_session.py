"""Models as people have them, through the interfaces that they know: `InferenceSession`, the command line, pickles."""

import multiprocessing
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import ModelBuilder, assert_close, own_engine, random_input, run_onnxruntime

import dualsparse
from dualsparse import Engine, InferenceSession, InvalidInputError, UnsupportedModelError
from dualsparse.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
BIG = 2**63 - 1


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# Operators of keyword spotters and mobile networks behind (or before) a layer: (what is appended, shape, opset).
NETWORKS = {
    "Slice with steps, without axes": (
        lambda b: b.node("Slice", b.tensor, *[b.constant(v) for v in (ints(0, 0, 1), ints(BIG, BIG, 5))], "",
                         b.constant(ints(1, 1, 2))), (4, 6), 13),
    "Slice with negative steps": (
        lambda b: b.node("Slice", b.tensor, *[b.constant(ints(v)) for v in (-1, -BIG, 2, -2)]), (4, 6), 13),
    "ReLU6": (lambda b: b.node("Clip", b.tensor, b.constant(np.float32(0)), b.constant(np.float32(6))), (4, 6), 13),
    "Clip without an upper bound": (lambda b: b.node("Clip", b.tensor, b.constant(np.float32(0))), (4, 6), 13),
    "Clip without a lower bound": (lambda b: b.node("Clip", b.tensor, "", b.constant(np.float32(1))), (4, 6), 13),
    "Clip of old opsets": (lambda b: b.node("Clip", min=-0.5, max=0.5), (4, 6), 7),
    "channels last": (lambda b: b.node("Transpose", perm=[0, 2, 1]), (4, 6), 13),
    "LogSoftmax": (lambda b: b.node("LogSoftmax", axis=1), (4, 6), 13),
    "Softmax of old opsets": (lambda b: b.node("Softmax", axis=1), (4, 6), 11),
    "HardSwish": (lambda b: b.node("HardSwish"), (4, 6), 14),
    "HardSigmoid": (lambda b: b.node("HardSigmoid"), (4, 6), 13),
    "LeakyRelu": (lambda b: b.node("LeakyRelu", alpha=0.2), (4, 6), 13),
    "Tanh": (lambda b: b.node("Tanh"), (4, 6), 13),
    "Pad": (lambda b: b.node("Pad", b.tensor, b.constant(ints(0, 0, 1, 0, 0, 2))), (4, 6), 13),
    "Pad of old opsets": (lambda b: b.node("Pad", pads=[0, 0, 1, 0, 0, 2]), (4, 6), 9),
    "LayerNormalization": (
        lambda b: b.node("LayerNormalization", b.tensor, b.constant(b.weights(6)), b.constant(b.weights(6))),
        (4, 6), 17),
    "layer norm, spelt out": (
        lambda b: b.node("Sub", b.tensor, b.node("ReduceMean", axes=[-1]).tensor)
        .node("Div", b.tensor, b.node("Pow", b.tensor, b.constant(np.float32(2))).node("Sqrt").tensor), (4, 6), 13),
    "GlobalMaxPool": (lambda b: b.node("GlobalMaxPool"), (4, 6), 13),
    "ReduceSum": (lambda b: b.node("ReduceSum", b.tensor, b.constant(ints(1)), keepdims=0), (4, 6), 13),
    "ReduceSum of old opsets": (lambda b: b.node("ReduceSum", axes=[1], keepdims=0), (4, 6), 11),
    "Max of one": (lambda b: b.node("Max", b.tensor), (4, 6), 13),
    "Max of three": (
        lambda b: b.node("Max", b.tensor, b.constant(b.weights(1, 4, 6)), b.constant(b.weights(6))), (4, 6), 13),
    "Min of two activations": (lambda b: b.node("Min", b.tensor, "input"), (4, 6), 13),
    "rank 1": (lambda b: b.node("ReduceMax", axes=[1, 2], keepdims=0), (4, 6), 13),
    "Squeeze of old opsets": (lambda b: b.node("Unsqueeze", axes=[2]).node("Squeeze", axes=[2]), (4, 6), 11),
    "LSTM": (
        lambda b: b.node("Transpose", perm=[1, 0, 2]).node(
            "LSTM", b.tensor, b.constant(b.weights(1, 20, 6)), b.constant(b.weights(1, 20, 5)), hidden_size=5),
        (4, 6), 13),
    "GRU": (
        lambda b: b.node("GRU", b.tensor, b.constant(b.weights(1, 15, 6)), b.constant(b.weights(1, 15, 5)),
                         hidden_size=5), (4, 6), 14),
    "average over a window": (lambda b: b.node("AveragePool", kernel_shape=[3], strides=[2], pads=[1, 1]), (4, 6), 11),
}  # fmt: skip


def reference_session(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("layer", ["before", "behind"])
@pytest.mark.parametrize("name", NETWORKS)
def test_operator_beside_a_layer_equals_onnxruntime(name: str, layer: str):
    append, shape, opset = NETWORKS[name]
    builder = ModelBuilder(shape, opset=opset)
    if layer == "before":
        builder.node("Conv", builder.tensor, builder.constant(builder.weights(4, 4, 1)))
    append(builder)
    if layer == "behind":
        builder.node("Relu")
    model = builder.model()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    content, x = model.SerializeToString(), random_input(builder, 3)
    expected = run_onnxruntime(content, x)
    engine = own_engine(content, 3)
    assert bool(engine.kernels) == (layer == "before")
    for found in (engine.run(x), *InferenceSession(content).run(None, {"input": x})):
        assert np.shape(found) == np.shape(expected)
        assert np.allclose(found, expected, atol=1e-4)


def two_by_two() -> onnx.ModelProto:
    """Two inputs of different types with open sizes, two outputs, and a sparse layer between."""
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(64, 32)) * (rng.random((64, 32)) < 0.02)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Add", ["rows", "x"], ["sum"]),
        helper.make_node("MatMul", ["sum", "w"], ["y"]),
        helper.make_node("Shape", ["sum"], ["size"]),
    ]
    values = {"table": rng.normal(size=(9, 64)).astype(np.float32), "w": weight}
    graph = helper.make_graph(
        nodes,
        "two",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "time"]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 64]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "time", 32]),
            helper.make_tensor_value_info("size", TensorProto.INT64, [3]),
        ],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def feeds(batch: int, time: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch + time)
    return {"ids": rng.integers(0, 9, (batch, time)), "x": rng.normal(size=(batch, time, 64)).astype(np.float32)}


def test_session_is_used_like_onnxruntimes():
    content = two_by_two().SerializeToString()
    session, reference = InferenceSession(content), reference_session(content)
    for ours, theirs in (
        (session.get_inputs(), reference.get_inputs()),
        (session.get_outputs(), reference.get_outputs()),
    ):
        assert [(a.name, a.type, list(a.shape)) for a in ours] == [(a.name, a.type, list(a.shape)) for a in theirs]
    for batch, time in ((1, 1), (2, 5), (3, 7), *((1, i) for i in range(2, 12))):
        given = feeds(batch, time)
        for found, expected in zip(session.run(None, given), reference.run(None, given), strict=True):
            assert found.dtype == expected.dtype and found.shape == expected.shape
            assert np.allclose(found, expected, atol=1e-4)
    assert np.array_equal(session.run(["size"], given)[0], [1, 11, 64])


def test_open_sizes_are_given_at_load():
    content, given = two_by_two().SerializeToString(), feeds(2, 5)
    with pytest.raises(InvalidInputError, match="size of axis 1 of the input 'ids' open"):
        Engine.from_onnx(content)
    engine = Engine.from_onnx(content, 2, shapes={"ids": (2, 5)})
    assert [(a.name, a.shape) for a in engine.inputs] == [("ids", (2, 5)), ("x", (2, 5, 64))]
    assert np.allclose(engine.run_named(given)["y"], reference_session(content).run(["y"], given)[0], atol=1e-4)
    with pytest.raises(InvalidInputError, match="2 inputs and 2 outputs: use run_named"):
        engine.run(given["x"])
    for wrong, message in (
        ({"ids": (2, 5), "x": (2, 6, 64)}, r"the input 'x' has the shape \['batch', 'time', 64\], not \[2, 6, 64\]"),
        ({"ids": (2, 5, 1)}, "'ids' has the shape"),
        ({"z": (1,)}, "has no input 'z'"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            Engine.from_onnx(content, shapes=wrong)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ids": feeds(1, 2)["ids"]}, "the input 'x' is missing"),
        ({**feeds(1, 2), "z": np.zeros(1)}, "has no input 'z'"),
        ({**feeds(1, 2), "x": np.zeros((1, 2, 64))}, "'x' is float64|expected: .tensor.float"),
        ({**feeds(1, 2), "x": np.zeros((1, 3, 64), np.float32)}, "not"),
    ],
)
def test_wrong_feeds_are_refused(given: dict, message: str):
    session = InferenceSession(two_by_two().SerializeToString())
    with pytest.raises(InvalidInputError, match=message):
        session.run(None, given)
    with pytest.raises(InvalidInputError, match="has no output 'nothing'"):
        session.run(["nothing"], feeds(1, 2))


def test_control_flow_runs():
    body = helper.make_graph(
        [helper.make_node("MatMul", ["hidden", "w"], ["positive"])],
        "then",
        [],
        [helper.make_tensor_value_info("positive", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["hidden"], ["negative"])],
        "else",
        [],
        [helper.make_tensor_value_info("negative", TensorProto.FLOAT, None)],
    )
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["condition"]),
        helper.make_node("If", ["condition"], ["chosen"], then_branch=body, else_branch=other),
        helper.make_node("MatMul", ["chosen", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "control",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6])],
        [
            numpy_helper.from_array(rng.normal(size=(6, 6)).astype(np.float32), "w"),
            numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9).SerializeToString()
    engine = own_engine(content)
    assert engine.kernels
    for seed in range(6):
        x = np.random.default_rng(seed).normal(size=(2, 6)).astype(np.float32)
        assert_close(engine.run(x), run_onnxruntime(content, x))


def mixed_network() -> ModelBuilder:
    """A network that both have a part of: a sparse convolution, and an operator of no layer."""
    builder = ModelBuilder((8, 12, 12), seed=1).conv(16, (3, 3), density=0.05).node("Sigmoid")
    return builder.flatten().gemm(200, density=0.01).node("Relu").gemm(3)


def test_threads_of_both_kinds_give_the_same():
    builder = mixed_network()
    x = random_input(builder, 9)
    expected = run_onnxruntime(builder.content(), x)
    for threads in (1, 2, 3):
        assert_close(own_engine(builder.content(), 9, threads).run(x), expected)


def test_pickles_are_file_and_settings(tmp_path: Path):
    builder = mixed_network()
    path, x = builder.save(tmp_path / "model.onnx"), random_input(builder, 4)
    for made in (Engine.from_onnx(path, 4, threads=2), Engine.from_onnx(builder.content(), 4)):
        copy = pickle.loads(pickle.dumps(made))
        assert copy.batch_size == 4 and copy.threads == made.threads
        assert np.array_equal(copy.run(x), made.run(x))
    assert len(pickle.dumps(Engine.from_onnx(path, 4))) < 1000
    session = pickle.loads(pickle.dumps(InferenceSession(path)))
    assert_close(session.run(None, {"input": x})[0], run_onnxruntime(builder.content(), x))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(own_engine(path))


def test_closing_ends_the_threads():
    builder = mixed_network()
    before = set(threading.enumerate())
    with own_engine(builder.content(), 9, 3) as engine:
        engine.run(random_input(builder, 9))
        workers = set(threading.enumerate()) - before
        assert len(workers) == 2
    for worker in workers:
        worker.join(timeout=10)
    assert not any(worker.is_alive() for worker in workers)
    session = InferenceSession(builder.content())
    session.run(None, {"input": random_input(builder, 9)})
    session.close()
    for run in (lambda x: engine.run(x), lambda x: session.run(None, {"input": x})):
        with pytest.raises(InvalidInputError, match="closed"):
            run(random_input(builder, 9))


def _run_in_child(engine: Engine, x: np.ndarray, results: "multiprocessing.Queue") -> None:
    y = engine.run(x)
    engine.close()  # which must not wait for threads that only the parent has
    results.put(y)


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_parts_of_onnxruntime_run_after_a_fork():
    builder = ModelBuilder((64,)).node("Sigmoid").gemm(64).node("Softmax", axis=-1)
    x = random_input(builder, 512)
    engine = Engine.from_onnx(builder.content(), 512, threads=2)
    assert engine.own_share == 0
    expected = engine.run(x)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_run_in_child, args=(engine, x, results))
    child.start()
    try:
        assert np.array_equal(results.get(timeout=60), expected)
    finally:
        child.kill()


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch):
    for module in ("runtime", "engine", "session"):
        monkeypatch.setattr(f"dualsparse.{module}.is_installed", lambda: False)
    builder = ModelBuilder((1, 12, 12)).conv(4, (3, 3)).node("Relu").flatten().gemm(10)
    x = random_input(builder, 2)
    expected = run_onnxruntime(builder.content(), x)
    assert_close(Engine.from_onnx(builder.content(), 2).run(x), expected)
    assert_close(InferenceSession(builder.content()).run(None, {"input": x})[0], expected)
    builder.node("Sigmoid")
    with pytest.raises(UnsupportedModelError) as caught:
        Engine.from_onnx(builder.content(), 2)
    assert str(caught.value) == (
        "the model: what no layer covers (Sigmoid) needs ONNX Runtime: pip install dualsparse[onnxruntime]"
    )


def test_package_is_imported_without_onnxruntime():
    code = "import sys; import dualsparse; assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_share_of_the_multiplications():
    builder = ModelBuilder((32,)).gemm(64).node("Sigmoid").gemm(16)
    engine = Engine(dualsparse.plan.make_plan(dualsparse.onnx_import.import_onnx(builder.content(), 4), {"tensor0"}))
    assert engine.own_share == pytest.approx(64 * 16 / (64 * 16 + 32 * 64))
    text = engine.explain()
    assert "33% of the multiplications in our layers" in text
    assert "ONNX Runtime: 1 Gemm, 1 Sigmoid" in text


# --- the command line -------------------------------------------------------------------------------------------------


def test_command_line_explains_and_times(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = str(mixed_network().save(tmp_path / "model.onnx"))
    assert main(["explain", path, "--batch-size", "4"]) == 0
    assert "ONNX Runtime:" in capsys.readouterr().out
    assert main(["benchmark", path, "--turns", "3", "--seconds", "0.01"]) == 0
    assert "times as fast [" in capsys.readouterr().out


def test_command_line_runs_arrays(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "model.onnx").write_bytes(two_by_two().SerializeToString())
    given = feeds(2, 3)
    np.savez(tmp_path / "in.npz", **given)
    arguments = ["--inputs", str(tmp_path / "in.npz"), "--out", str(tmp_path / "out.npz"), "--shape", "x=2,3,64"]
    assert main(["run", str(tmp_path / "model.onnx"), *arguments]) == 0
    assert "y: float32 [2, 3, 32]" in capsys.readouterr().out
    with np.load(tmp_path / "out.npz") as found:
        [expected] = reference_session(two_by_two().SerializeToString()).run(["y"], given)
        assert np.allclose(found["y"], expected, atol=1e-4)


def test_command_line_says_what_is_wrong_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    for arguments in (["run", str(tmp_path / "missing.onnx")], ["explain", str(tmp_path / "model.onnx")]):
        assert main(arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("dualsparse: ") and captured.err.count("\n") == 1


def test_help():
    for arguments in (["--help"], ["explain", "--help"], ["run", "--help"], ["benchmark", "--help"]):
        command = [sys.executable, "-m", "dualsparse", *arguments]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert found.returncode == 0 and "usage: python -m dualsparse" in found.stdout

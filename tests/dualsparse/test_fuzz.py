"""Damaged files give a clear error, or the answer that ONNX Runtime gives, never a crash."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import ModelBuilder, assert_close, run_onnxruntime

from dualsparse import DualsparseError, Engine, InvalidModelError
from dualsparse.onnx_file import load
from dualsparse.onnx_import import import_onnx
from dualsparse.plan import make_plan

common = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def float_model() -> ModelBuilder:
    builder = ModelBuilder((2, 6, 8), batch=2)
    builder.conv(4, (3, 3), strides=[1, 1], pads=[1, 1, 1, 1]).batch_norm().node("Relu")
    builder.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer().k_winners(20).flatten().gemm(5)
    return builder.node("Softmax", axis=1)


def quantized_model() -> ModelBuilder:
    builder = ModelBuilder((2, 6, 8), batch=2).quantize(0.02, 120)
    weight = builder.quantized_weight(builder.weights(4, 2, 3, 3))
    builder.node("Conv", builder.tensor, weight).infer().node("Relu").quantize(0.02, 0).flatten()
    weight = builder.quantized_weight(builder.weights(builder.shape[0], 5), axis=1)
    builder.node("MatMul", builder.tensor, weight)
    builder.shape = (5,)
    return builder


MODELS = {"float32": float_model(), "int8": quantized_model()}


def check(content: bytes, compare: bool = False) -> None:
    """Load and run damaged `content`: either one of the package's errors comes out, or a result.

    With `compare`, the result has to be ONNX Runtime's, if that loads the file.
    """
    try:
        engine = Engine(make_plan(import_onnx(load(content, "damaged.onnx"))), 1, "portable")
        x = np.random.default_rng(1).normal(size=engine.input_shape).astype(np.float32)
        found = engine.run(x)
    except DualsparseError as error:
        assert str(error).startswith(("damaged.onnx", "the input"))
        assert "\n" not in str(error)
        return
    assert found.shape == engine.output_shape
    assert found.dtype == np.float32
    expected = try_onnxruntime(content, x) if compare else None
    if expected is not None and np.isfinite(expected).all():
        assert_close(found, expected, tolerance=0.05)


def try_onnxruntime(content: bytes, x: np.ndarray) -> np.ndarray | None:
    try:
        return run_onnxruntime(content, x, optimise=False)
    except Exception:  # its errors have no class in common
        return None


@pytest.mark.parametrize("name", MODELS)
@common
@given(data=st.data())
def test_changed_bytes(name: str, data: st.DataObject) -> None:
    content = bytearray(MODELS[name].content())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(content))


@pytest.mark.parametrize("name", MODELS)
@common
@given(data=st.data())
def test_truncated_and_spliced_bytes(name: str, data: st.DataObject) -> None:
    content = MODELS[name].content()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    check(content[:start] + content[end:])


@common
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes(content: bytes) -> None:
    with pytest.raises(InvalidModelError, match="not a valid ONNX model"):
        load(content, "damaged.onnx")


def damage(model: onnx.ModelProto, data: st.DataObject) -> None:
    """Change one thing in a model that stays readable: its graph may make no sense any more, or another sense."""
    graph = model.graph
    node = data.draw(st.sampled_from(list(graph.node)))
    kind = data.draw(
        st.sampled_from(["operator", "input", "drop", "attribute", "no attribute", "dims", "type", "opset"])
    )
    if kind == "operator":
        node.op_type = data.draw(st.sampled_from(sorted({n.op_type for n in graph.node} | {"Add", "Mul", "Sigmoid"})))
    elif kind == "input" and node.input:
        names = [t.name for t in graph.initializer] + [n.output[0] for n in graph.node]
        node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(names))
    elif kind == "drop":
        graph.node.remove(node)
    elif kind == "attribute" and node.attribute:
        attribute = data.draw(st.sampled_from(list(node.attribute)))
        numbers = st.sampled_from([-1, 0, 1, 2, 3, 7, 2**31, 2**62])
        attribute.i = data.draw(numbers)
        for i in range(len(attribute.ints)):
            attribute.ints[i] = data.draw(numbers)
    elif kind == "no attribute" and node.attribute:
        node.attribute.remove(data.draw(st.sampled_from(list(node.attribute))))
    elif kind == "dims":
        tensor = data.draw(st.sampled_from(list(graph.initializer)))
        if tensor.dims:
            tensor.dims[data.draw(st.integers(0, len(tensor.dims) - 1))] = data.draw(
                st.sampled_from([-1, 0, 1, 4, 2**40])
            )
    elif kind == "type":
        data.draw(st.sampled_from(list(graph.initializer))).data_type = data.draw(st.integers(0, 30))
    elif kind == "opset":
        model.opset_import[0].version = data.draw(st.integers(0, 30))


@pytest.mark.parametrize("name", MODELS)
@common
@given(data=st.data())
def test_changed_graphs(name: str, data: st.DataObject) -> None:
    model = MODELS[name].model()
    for _ in range(data.draw(st.integers(1, 3))):
        if model.graph.node:
            damage(model, data)
    check(model.SerializeToString(), compare=True)

"""What is read from ONNX files: fusion, patterns, every operator; and what is refused, with which sentence."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import ModelBuilder, assert_close, own_engine, random_input, run_onnxruntime

from dualsparse import Engine, InvalidInputError, InvalidModelError, UnsupportedModelError
from dualsparse.graph import Graph
from dualsparse.layers import FloatLayer, IntegerLayer
from dualsparse.onnx_file import load
from dualsparse.onnx_import import import_onnx
from dualsparse.patterns import recognise
from dualsparse.plan import LayerStep, OperatorStep, Plan, RuntimeStep, make_plan


def graph(builder: ModelBuilder, batch_size: int | None = None) -> Graph:
    return import_onnx(builder.content(), batch_size)


def plan(builder: ModelBuilder, batch_size: int = 2) -> Plan:
    return make_plan(graph(builder, batch_size))


def check_against_onnxruntime(builder: ModelBuilder, batch_size: int = 3) -> Plan:
    """Run a float model with both; return our plan."""
    x = random_input(builder, batch_size)
    made = plan(builder, batch_size)
    assert_close(Engine(made, 1, "portable").run(x), run_onnxruntime(builder.content(), x))
    return made


def steps(made: Plan) -> list[int | str]:
    """Describe a plan: of each step the number of layers, the operator, or that ONNX Runtime has it."""
    kinds = {OperatorStep: lambda step: step.node.op, RuntimeStep: lambda step: "runtime"}
    return [len(s.layers) if isinstance(s, LayerStep) else kinds[type(s)](s) for s in made.steps]


# --- fusion ---------------------------------------------------------------------------------------------------------


def test_whole_network_becomes_one_sequence():
    builder = ModelBuilder((1, 12, 12))
    builder.conv(4, (3, 3)).batch_norm().node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer().node("Relu")
    builder.conv(6, (3, 3)).node("Relu").flatten().gemm(10).node("Relu").gemm(3)
    assert steps(check_against_onnxruntime(builder)) == [4]


def test_normalisation_with_a_negative_factor_stays_behind_its_pool():
    builder = ModelBuilder((1, 8, 8))
    builder.conv(4, (3, 3)).node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer()
    negative = builder.constant(np.array([-1, 2, 3, 4], np.float32).reshape(4, 1, 1))
    builder.node("Mul", builder.tensor, negative)
    assert steps(check_against_onnxruntime(builder)) == [1, "runtime"]


def test_normalisation_behind_a_relu_is_not_folded():
    builder = ModelBuilder((1, 8, 8)).conv(4, (3, 3)).node("Relu").batch_norm()
    assert steps(check_against_onnxruntime(builder)) == [1, "runtime"]


def test_overlapping_pool_is_not_fused():
    builder = ModelBuilder((1, 9, 9)).conv(4, (3, 3)).node("MaxPool", kernel_shape=[3, 3], strides=[2, 2]).infer()
    assert steps(check_against_onnxruntime(builder)) == [1, "runtime"]


def test_residual_sum_keeps_both_branches():
    builder = ModelBuilder((3, 8, 8)).conv(4, (3, 3), pads=[1, 1, 1, 1])
    shortcut = builder.tensor
    builder.node("Relu").conv(4, (3, 3), pads=[1, 1, 1, 1]).node("Add", builder.tensor, shortcut).node("Relu")
    builder.node("GlobalAveragePool").infer().flatten().gemm(5)
    assert steps(check_against_onnxruntime(builder)) == [1, "runtime", 1, "runtime", 1]


def test_bias_added_behind_a_matrix_product_is_fused():
    builder = ModelBuilder((7,))
    builder.node("MatMul", "input", builder.constant(builder.weights(7, 5)))
    builder.shape = (5,)
    builder.node("Add", builder.constant(builder.weights(5)), builder.tensor).node("Relu")
    assert steps(check_against_onnxruntime(builder)) == [1]


@pytest.mark.parametrize(("kind", "settings"), [("column", (4, 2, 3)), ("pair", (4, 2))])
def test_gate_is_recognised(kind: str, settings: tuple[int, ...]):
    builder = ModelBuilder((1, 12, 12)).conv(4, (5, 3))
    builder.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer().node("Relu")
    assert builder.shape == (4, 4, 5)
    getattr(builder, f"{kind}_gate")(*settings).flatten().gemm(5)
    made = check_against_onnxruntime(builder)
    assert steps(made) == [1, "ColumnGate", 1]
    assert made.steps[1].node.op == "ColumnGate"
    expected = {"kernel_width": 4, "stride_width": 2, "keep": 3 if kind == "column" else 1, "pair": kind == "pair"}
    assert made.steps[1].node.attributes == expected


def test_gate_behind_an_integer_layer_is_part_of_it():
    builder = ModelBuilder((1, 12, 12)).quantize(0.03, 120)
    weight = builder.quantized_weight(builder.weights(4, 1, 5, 3))
    builder.node("Conv", builder.tensor, weight).infer()
    builder.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer().node("Relu")
    builder.pair_gate(4, 2).quantize(0.02, 0).flatten()
    builder.node("MatMul", builder.tensor, builder.quantized_weight(builder.weights(builder.shape[0], 5), axis=1))
    builder.shape = (5,)
    made = plan(builder)
    assert steps(made) == [2]
    gate = made.steps[0].gate
    assert (gate.columns, gate.layer_index, gate.pair, gate.computed_columns) == (5, 0, True, 2)
    x = random_input(builder, 2)
    expected = run_onnxruntime(builder.content(), x, optimise=False)
    assert_close(Engine(made, 1, "portable").run(x), expected, tolerance=0.02)


def test_mask_that_is_no_gate_stays_what_it_is():
    builder = ModelBuilder((1, 12, 18))
    x = builder.conv(4, (5, 3)).node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer().tensor
    energy = builder.node("AveragePool", "input", kernel_shape=[12, 4], strides=[12, 2]).tensor
    builder.node("TopK", energy, builder.constant(np.array([3])), outputs=2, axis=3, largest=0)
    bounds = [builder.constant(np.array([value])) for value in (-1, 2**63 - 1, 3, 1)]
    builder.node("Slice", builder.tensor, *bounds)  # the third smallest: the number kept depends on nothing else
    builder.node("GreaterOrEqual", builder.tensor, energy).node("Cast", to=TensorProto.FLOAT)
    builder.node("Mul", x, builder.tensor).flatten().gemm(5)
    made = check_against_onnxruntime(builder)
    assert steps(made) == [1, "runtime", 1]


@pytest.mark.parametrize("shape", [(4, 6, 5), (30,)])
def test_k_winners_are_one_operator(shape: tuple[int, ...]):
    builder = ModelBuilder(shape).k_winners(7)
    made = check_against_onnxruntime(builder)
    assert steps(made) == ["KWinners"]


# --- operators ------------------------------------------------------------------------------------------------------

OPERATORS = {
    "average pool with padding": lambda b: b.node(
        "AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "average pool, ceil": lambda b: b.node(
        "AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1], ceil_mode=1, count_include_pad=1
    ),
    "max pool, ceil": lambda b: b.node("MaxPool", kernel_shape=[2, 3], strides=[3, 2], ceil_mode=1),
    "max pool, dilated": lambda b: b.node("MaxPool", kernel_shape=[2, 2], dilations=[2, 3]),
    "max pool, same": lambda b: b.node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "global average": lambda b: b.node("GlobalAveragePool"),
    "mean over the image": lambda b: b.node("ReduceMean", axes=[2, 3], keepdims=0),
    "largest per channel": lambda b: b.node("ReduceMax", axes=[-1], keepdims=1),
    "softmax over channels": lambda b: b.node("Softmax", axis=1),
    "reshape": lambda b: b.node("Reshape", b.tensor, b.constant(np.array([0, -1, 2]))),
    "squeeze, unsqueeze": lambda b: b.node("Unsqueeze", b.tensor, b.constant(np.array([-1]))).node(
        "Squeeze", b.tensor, b.constant(np.array([4]))
    ),
    "slice": lambda b: b.node("Slice", b.tensor, *[b.constant(np.array(v)) for v in ([1, 0], [4, 99], [1, 3], [1, 2])]),
    "gather": lambda b: b.node("Gather", b.tensor, b.constant(np.array([2, 0])), axis=2),
    "product with a map": lambda b: b.node("Mul", b.tensor, b.constant(b.weights(1, 1, 6, 8))),
    "constant minus input": lambda b: b.node("Sub", b.constant(np.float32(3)), b.tensor),
    "quotient": lambda b: b.node("Div", b.tensor, b.constant(np.full((4, 1, 1), 3, np.float32))),
    "matrix product of rows": lambda b: b.node("MatMul", b.tensor, b.constant(b.weights(8, 5))),
    "split and joined": lambda b: b.node("Split", outputs=2, axis=1).node(
        "Concat", f"{b.tensor}.1", b.tensor, f"{b.tensor}.1", axis=3
    ),
    "larger of two": lambda b: b.node("Max", b.tensor, b.node("Relu").node("Sub", b.tensor, "input").tensor),
    "identity, dropout": lambda b: b.node("Identity").node("Dropout").node("Relu"),
    "smallest k": lambda b: b.node("TopK", b.tensor, b.constant(np.array([3])), outputs=2, axis=1, largest=0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_equals_onnxruntime(name: str):
    builder = ModelBuilder((4, 6, 8))
    OPERATORS[name](builder)
    builder.shape = tuple(onnx_shape(builder))
    check_against_onnxruntime(builder)


def onnx_shape(builder: ModelBuilder) -> list[int]:
    return list(run_onnxruntime(builder_without_shape(builder), random_input(builder, 1)).shape[1:])


def builder_without_shape(builder: ModelBuilder) -> bytes:
    model = builder.model()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model.SerializeToString()


def test_shape_arithmetic_of_an_exporter_disappears():
    builder = ModelBuilder((4, 6, 8))
    builder.node("Shape", "input")
    builder.node("Gather", builder.tensor, builder.constant(np.array(0)), axis=0)
    builder.node("Unsqueeze", builder.tensor, builder.constant(np.array([0])))
    builder.node("Concat", builder.tensor, builder.constant(np.array([-1])), axis=0)
    builder.node("Reshape", "input", builder.tensor)
    builder.shape = (192,)
    builder.gemm(3)
    assert steps(check_against_onnxruntime(builder)) == [1]


def test_depthwise_strided_dilated_and_one_dimensional_convolutions():
    builder = ModelBuilder((6, 40))
    builder.conv(12, (5,), groups=6, strides=[2], pads=[2, 1]).node("Relu")
    builder.conv(5, (3,), dilations=[3]).node("Relu").node("MaxPool", kernel_shape=[2], strides=[2]).infer()
    builder.flatten().gemm(4)
    assert steps(check_against_onnxruntime(builder)) == [3]


# --- quantised files ------------------------------------------------------------------------------------------------


def quantised_network(dtype: type = np.uint8, zero_points: tuple[int, int] = (120, 0), opset: int = 13) -> ModelBuilder:
    builder = ModelBuilder((2, 8, 8), opset=opset).quantize(0.03, zero_points[0], dtype)
    weight = builder.quantized_weight(builder.weights(4, 2, 3, 3))
    builder.node("Conv", builder.tensor, weight).infer().node("Relu").quantize(0.02, zero_points[1], dtype).flatten()
    weight = builder.quantized_weight(builder.weights(builder.shape[0], 5), axis=1)
    builder.node("MatMul", builder.tensor, weight)
    builder.shape = (5,)
    return builder


@pytest.mark.parametrize(("dtype", "zero_points"), [(np.uint8, (120, 0)), (np.int8, (-8, -128))])
def test_signed_and_unsigned_activations_give_the_same_layers(dtype: type, zero_points: tuple[int, int]):
    builder = quantised_network(dtype, zero_points)
    made = plan(builder)
    assert steps(made) == [2]
    first, second = made.steps[0].layers
    assert (first.input_zero_point, first.output_zero_point, second.input_zero_point) == (120, 0, 0)
    assert made.steps[0].quantization.zero_point == 120
    assert second.output_float and not first.output_float
    x = random_input(builder, 2)
    expected = run_onnxruntime(builder.content(), x, optimise=False)
    assert_close(Engine(made, 1, "portable").run(x), expected, tolerance=0.02)


def test_sixteen_bit_activations_run_in_float():
    builder = quantised_network(np.uint16, (30000, 0), opset=21)
    made = plan(builder)
    assert Engine(made, 1, "portable").precision == "fp32"
    x = random_input(builder, 2)
    expected = run_onnxruntime(builder.content(), x, optimise=False)
    assert_close(Engine(made, 1, "portable").run(x), expected, tolerance=0.02)


def test_asymmetric_weights_run_in_float():
    builder = ModelBuilder((6,)).quantize(0.03, 128)
    weight = builder.rng.integers(-128, 128, (5, 6)).astype(np.int8)
    tensor = builder.tensor
    names = builder.constant(weight), builder.constant(np.float32(0.01)), builder.constant(np.int8(3))
    name = builder.node("DequantizeLinear", *names).tensor
    builder.node("Gemm", tensor, name, transB=1)
    builder.shape = (5,)
    assert Engine(plan(builder), 1, "portable").precision == "fp32"
    check_against_onnxruntime(builder)


def test_repeated_rounding_on_one_grid_is_dropped():
    builder = quantised_network()
    once = steps(plan(builder))
    builder = ModelBuilder((2, 8, 8)).quantize(0.03, 120)
    weight = builder.quantized_weight(builder.weights(4, 2, 3, 3))
    builder.node("Conv", builder.tensor, weight).infer().node("Relu").quantize(0.02, 0).flatten().quantize(0.02, 0)
    weight = builder.quantized_weight(builder.weights(builder.shape[0], 5), axis=1)
    builder.node("MatMul", builder.tensor, weight)
    builder.shape = (5,)
    assert steps(plan(builder)) == once


def test_quantisation_that_clips_more_than_the_next_is_kept():
    builder = ModelBuilder((2, 8, 8)).quantize(0.03, 120)
    weight = builder.quantized_weight(builder.weights(4, 2, 3, 3))
    builder.node("Conv", builder.tensor, weight).infer().quantize(0.001, 100)  # keeps -0.1 to 0.155
    builder.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer().quantize(0.02, 100).flatten()
    weight = builder.quantized_weight(builder.weights(builder.shape[0], 5), axis=1)
    builder.node("MatMul", builder.tensor, weight)
    builder.shape = (5,)
    x = random_input(builder, 2)
    expected = run_onnxruntime(builder.content(), x, optimise=False)
    assert_close(Engine(plan(builder), 1, "portable").run(x), expected, tolerance=0.02)


def test_integers_that_would_overflow_run_in_float():
    builder = ModelBuilder((70000,)).quantize(0.03, 0)
    weight = builder.quantized_weight(np.full((70000, 2), 1e-3, np.float32), axis=1)
    builder.node("MatMul", builder.tensor, weight)
    builder.shape = (2,)
    assert Engine(plan(builder), 1, "portable").precision == "fp32"


def integer_network(dynamic: bool, per_channel: bool) -> ModelBuilder:
    """ConvInteger and MatMulInteger with what tools put around them."""
    builder = ModelBuilder((3, 8, 8))
    for kind, weight in (("Conv", builder.weights(4, 3, 3, 3)), ("MatMul", builder.weights(144, 5))):
        axis = 0 if kind == "Conv" else 1
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = np.abs(weight).max(axis=others if per_channel else None, keepdims=True) / np.float32(127)
        integers = builder.constant(np.rint(weight / scale).astype(np.int8))
        # ONNX Runtime knows one zero point per channel for matrices only.
        zero_point = builder.constant(np.zeros(5 if per_channel and kind == "MatMul" else (), np.int8))
        if dynamic:
            x = builder.node("DynamicQuantizeLinear", outputs=3).tensor
            x_scale, x_zero_point = f"{x}.1", f"{x}.2"
        else:
            x_scale, x_zero_point = builder.constant(np.float32(0.03)), builder.constant(np.uint8(120))
            x = builder.node("QuantizeLinear", builder.tensor, x_scale, x_zero_point).tensor
        shape = (-1, 1, 1) if kind == "Conv" else (-1,)
        factor = builder.constant(scale.reshape(shape if per_channel else ()).astype(np.float32))
        factor = builder.node("Mul", x_scale, factor).tensor
        builder.node(f"{kind}Integer", x, integers, x_zero_point, zero_point).node("Cast", to=TensorProto.FLOAT)
        builder.node("Mul", builder.tensor, factor)
        if kind == "Conv":
            builder.node("Add", builder.tensor, builder.constant(builder.weights(4, 1, 1))).node("Relu").node("Flatten")
    builder.shape = (5,)
    return builder


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_sums_of_integers_are_layers(dynamic: bool, per_channel: bool):
    builder = integer_network(dynamic, per_channel)
    made = plan(builder, 2)
    layers = [layer for step in made.steps if isinstance(step, LayerStep) for layer in step.layers]
    kind = FloatLayer if dynamic else IntegerLayer
    assert [type(layer) for layer in layers] == [kind, kind]
    if not dynamic:
        assert steps(made) == [2]
    x = random_input(builder, 2)
    assert_close(Engine(made, 1, "portable").run(x), run_onnxruntime(builder.content(), x), tolerance=0.02)


# --- patterns -------------------------------------------------------------------------------------------------------


def pattern_mask(name: str, rng: np.random.Generator) -> np.ndarray:
    """A mask [32 outputs, 128 inputs, 3, 3] with about 1/16 of the weights."""
    mask = np.zeros((32, 128, 9), bool)
    if name == "n_of_64":
        for index in np.ndindex(32, 2, 9):
            chosen = rng.choice(64, 4, replace=False)
            mask[index[0], 64 * index[1] + chosen, index[2]] = True
    elif name == "block4":
        mask = np.repeat(rng.random((32, 32, 9)) < 1 / 16, 4, axis=1)
    elif name == "block16":
        mask = np.repeat(rng.random((2, 128, 9)) < 1 / 16, 16, axis=0)
    elif name == "unstructured":
        mask = rng.random(mask.shape) < 0.4
    else:
        mask[:] = True
    return mask.reshape(32, 128, 3, 3)


@pytest.mark.parametrize("name", ["dense", "unstructured", "block4", "n_of_64", "block16"])
def test_pattern_is_recognised(name: str):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(32, 128, 3, 3)) * pattern_mask(name, rng)
    assert recognise(weight, (128, 9, 9)).name == name


def test_pattern_of_a_linear_layer_is_that_of_the_flattened_image():
    rng = np.random.default_rng(0)
    mask = pattern_mask("n_of_64", rng)
    pattern = recognise(mask.reshape(32, -1), (128, 3, 3))
    assert (pattern.name, pattern.n) == ("n_of_64", 4)


# --- what ONNX Runtime runs, and what nobody does --------------------------------------------------------------------


def reshaped_across_samples() -> ModelBuilder:
    builder = ModelBuilder((4,), batch=4)
    builder.node("Reshape", "input", builder.constant(np.array([-1, 2])))
    builder.shape = (2,)
    return builder.gemm(3)


def transposed_input() -> ModelBuilder:
    builder = ModelBuilder((4,), batch=4)
    return builder.node("Gemm", "input", builder.constant(builder.weights(4, 4)), transA=1)


def topk_indices() -> ModelBuilder:
    builder = ModelBuilder((4,))
    builder.node("TopK", "input", builder.constant(np.array([2])), outputs=2, axis=1)
    return builder.node("Cast", f"{builder.tensor}.1", to=TensorProto.FLOAT)


def not_finite_weights() -> ModelBuilder:
    builder = ModelBuilder((2,))
    builder.node("MatMul", "input", builder.constant(np.array([[1, np.inf], [0, 1]], np.float32)))
    builder.shape = (2,)
    return builder


# A model, and the steps that its plan has.
OUTSIDE_LAYERS = {
    "operator of no layer": (lambda: ModelBuilder((4,)).node("Sigmoid").gemm(3), ["runtime", 1]),
    "softmax over the batch": (lambda: ModelBuilder((4,)).gemm(3).node("Softmax", axis=0), [1, "runtime"]),
    "transposed input": (transposed_input, ["runtime"]),
    "reshape across samples": (reshaped_across_samples, [1]),
    "volume": (lambda: ModelBuilder((1, 4, 4, 4)).conv(2, (3, 3, 3)), ["runtime"]),
    "indices of TopK": (topk_indices, ["runtime"]),
    "weights that are not finite": (not_finite_weights, ["runtime"]),
    "opset 7": (lambda: ModelBuilder((1, 6, 6), opset=7).conv(2, (3, 3)).node("Relu").flatten().gemm(3), [2]),
    "scalar output": (lambda: ModelBuilder((4,)).gemm(3).node("ReduceSum", keepdims=0), [1, "runtime"]),
}


@pytest.mark.parametrize("name", OUTSIDE_LAYERS)
def test_what_no_layer_covers_runs_in_onnxruntime(name: str):
    make, expected = OUTSIDE_LAYERS[name]
    builder = make()
    content = builder_without_shape(builder)
    made = make_plan(import_onnx(content, 4))
    assert steps(made) == expected
    x = random_input(builder, 4)
    found, reference = Engine(made).run(x), run_onnxruntime(content, x)
    assert np.shape(found) == np.shape(reference)
    assert np.allclose(found, reference, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_rows_of_a_matrix_product_are_samples():
    builder = ModelBuilder((5, 7))
    builder.node("MatMul", "input", builder.constant(builder.weights(7, 6)))
    builder.node("Add", builder.tensor, builder.constant(builder.weights(6))).node("Relu")
    builder.node("MatMul", builder.tensor, builder.constant(builder.weights(6, 4)))
    builder.shape = (5, 4)
    made = check_against_onnxruntime(builder, 3)
    assert steps(made) == [2]
    assert made.steps[0].samples == 15


def test_two_branches_need_onnxruntime_once_between_them():
    builder = ModelBuilder((3, 8, 8)).conv(4, (3, 3), pads=[1, 1, 1, 1])
    stem = builder.tensor
    left = builder.node("Relu", stem).conv(4, (3, 3), pads=[1, 1, 1, 1]).tensor
    builder.tensor = stem
    right = builder.node("Sigmoid", stem).conv(4, (3, 3), pads=[1, 1, 1, 1]).tensor
    builder.node("Add", left, right)
    assert steps(check_against_onnxruntime(builder)) == [1, "runtime", 1, 1, "runtime"]


def with_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


def external_constant(location: str, offset: int = 0, length: int = 32) -> onnx.ModelProto:
    model = ModelBuilder((4,)).gemm(2).model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": str(offset), "length": str(length)}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model


REFUSED = {
    "foreign operator": (lambda: with_domain(ModelBuilder((4,)).node("Gelu").model()), "ONNX Runtime refuses"),
    "constants of bytes in another file": (lambda: external_constant("weights.bin"), "not a valid ONNX model"),
    "a tensor that is too large": (
        lambda: ModelBuilder((1 << 20,), batch=1 << 20).node("Relu").model(),
        "more than 2147483648 values",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_sentence(name: str):
    make, message = REFUSED[name]
    with pytest.raises((UnsupportedModelError, InvalidModelError), match=message) as caught:
        Engine.from_onnx(load(make().SerializeToString(), "model.onnx"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model.onnx")


def test_weights_in_a_file_of_their_own(tmp_path: Path):
    builder = ModelBuilder((64,)).gemm(64).node("Relu").gemm(8).node("Sigmoid")
    onnx.save(builder.model(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert (tmp_path / "m.data").stat().st_size > 64 * 64 * 4
    x = random_input(builder, 5)
    for engine in (own_engine(tmp_path / "m.onnx", 5), Engine.from_onnx(tmp_path / "m.onnx", 5)):
        assert_close(engine.run(x), run_onnxruntime(builder.content(), x))


@pytest.mark.parametrize(
    ("location", "offset", "length"),
    [
        ("../weights.bin", 0, 32),
        ("{folder}/weights.bin", 0, 32),
        ("link.bin", 0, 32),
        ("inside.bin", 0, 1 << 40),
        ("inside.bin", 1 << 40, 32),
        ("inside.bin", -32, 32),
        ("inside.bin", 0, 16),
        ("missing.bin", 0, 32),
    ],
)
def test_weights_come_from_the_models_folder_within_bounds(tmp_path: Path, location: str, offset: int, length: int):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tmp_path / "weights.bin", folder / "inside.bin"):
        path.write_bytes(bytes(64))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    model = external_constant(location.format(folder=tmp_path), offset, length)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModelError, match=r"not a valid ONNX model|is broken") as caught:
        Engine.from_onnx(folder / "model.onnx")
    assert "\n" not in str(caught.value)


def test_batch_size_comes_from_the_file_or_the_caller():
    def batch_size(builder: ModelBuilder, asked: int | None = None) -> int:
        return Engine.from_onnx(builder.content(), asked).batch_size

    assert batch_size(ModelBuilder((4,)).node("Relu")) == 1
    assert batch_size(ModelBuilder((4,)).node("Relu"), 9) == 9
    assert batch_size(ModelBuilder((4,), batch=5).node("Relu")) == 5
    with pytest.raises(InvalidInputError, match="made for a batch size of 5, but 9"):
        batch_size(ModelBuilder((4,), batch=5).node("Relu"), 9)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        import_onnx(tmp_path / "missing.onnx")

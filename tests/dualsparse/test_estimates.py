"""Who is to run a layer: the cheapest division of a sequence, and the counting of multiplications."""

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_models import ModelBuilder, quantised_by_onnxruntime

from dualsparse.division import divide
from dualsparse.estimates import CROSSING, _cheapest, _Costs, node_macs
from dualsparse.kernels.instruction_sets import INSTRUCTION_SETS, InstructionSet
from dualsparse.onnx_import import import_onnx
from dualsparse.plan import LayerStep, RuntimeStep

times = st.floats(0, 100)


def cost(costs: list[_Costs], choice: tuple[bool, ...], before: bool, after: bool) -> float:
    """What a division takes: its layers, half a crossing wherever the runner changes, and the ends of sequences."""
    total = sum(layer.ours if own else layer.theirs for layer, own in zip(costs, choice, strict=True))
    runners = [not before, *choice, not after]
    total += sum(CROSSING / 2 for last, here in pairwise(runners) if last != here)
    for index, own in enumerate(choice):
        if own and (index == 0 or not choice[index - 1]):
            total += costs[index].enter
        if own and (index == len(choice) - 1 or not choice[index + 1]):
            total += costs[index].leave
    return total


@given(
    costs=st.lists(st.builds(_Costs, times, times, times, times), min_size=1, max_size=5),
    before=st.booleans(),
    after=st.booleans(),
)
def test_no_division_is_cheaper(costs: list[_Costs], before: bool, after: bool):
    found = cost(costs, tuple(_cheapest(costs, before, after)), before, after)
    least = min(cost(costs, choice, before, after) for choice in product((False, True), repeat=len(costs)))
    assert found == pytest.approx(least)


def study_network(density: float) -> ModelBuilder:
    """The study's network without normalisations, zeros in the weights of its two large layers."""
    builder = ModelBuilder((1, 32, 32)).conv(64, (5, 5))
    builder.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer().node("Relu").conv(64, (5, 5), density)
    builder.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).infer().node("Relu")
    return builder.flatten().gemm(1500, density).node("Relu").gemm(12)


def runners(content: bytes, batch_size: int, instruction_set: InstructionSet | None) -> set[type]:
    """The kinds of steps that a network is divided into; nothing is compiled, so that any machine has all sets."""
    plan, builders = divide(import_onnx(content, batch_size), 1, instruction_set)
    assert builders.keys() == {step for step in plan.steps if isinstance(step, LayerStep)}
    return {type(step) for step in plan.steps}


@pytest.mark.parametrize("name", [*INSTRUCTION_SETS, "portable"])
def test_dense_floats_go_to_onnxruntime_and_few_weights_stay(name: str):
    for density, runner in ((1.0, RuntimeStep), (0.01, LayerStep)):
        builder = ModelBuilder((64, 20, 20)).conv(64, (5, 5), density).node("Relu").conv(64, (5, 5), density)
        assert runners(builder.content(), 1, INSTRUCTION_SETS.get(name)) == {runner}


# Those of x86, as are ONNX Runtime's rates.
@pytest.mark.parametrize("name", ["avx512_vbmi", "avx512_vnni", "avx_vnni", "avx2"])
def test_a_pruned_float_network_stays_at_any_batch_size(name: str):
    for batch_size in (1, 64):
        assert runners(study_network(0.05).content(), batch_size, INSTRUCTION_SETS[name]) == {LayerStep}


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_a_pruned_integer_network_stays_at_any_batch_size(name: str, tmp_path: Path):
    content = quantised_by_onnxruntime(study_network(0.05), tmp_path, op_types_to_quantize=["Conv", "Gemm"])
    for batch_size in (1, 64):
        assert runners(content, batch_size, INSTRUCTION_SETS[name]) == {LayerStep}


def test_one_layer_without_a_kernel_leaves_its_neighbours_theirs():
    builder = ModelBuilder((64, 20, 20)).conv(64, (5, 5), 0.02).node("Relu")
    builder.conv(64, (5, 5), 1.0, strides=[1, 2]).node("Relu").conv(64, (3, 3), 0.02)
    plan, builders = divide(import_onnx(builder.content(), 1), 1, INSTRUCTION_SETS["avx2"])
    assert [type(step) for step in plan.steps] == [LayerStep, RuntimeStep, LayerStep]
    assert None not in builders.values()


def test_multiplications_are_those_of_a_loop_over_the_weights():
    rng = np.random.default_rng(0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6, 9, 10])
    cases = {
        "Conv": ({"w": (8, 3, 3, 3)}, {"group": 2, "strides": [2, 1]}, 2 * 8 * 4 * 8 * 3 * 3 * 3),
        "ConvTranspose": ({"w": (6, 4, 3, 2)}, {}, 2 * 6 * 9 * 10 * 4 * 3 * 2),
        "MatMul": ({"w": (10, 7)}, {}, 2 * 6 * 9 * 7 * 10),
    }
    for op, (shapes, attributes, expected) in cases.items():
        weights = [onnx.numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
        node = helper.make_node(op, ["x", *shapes], ["y"], **attributes)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"])
        model = helper.make_model(helper.make_graph([node], "g", [x], [y], weights), ir_version=9)
        model.opset_import[0].version = 17
        assert node_macs(import_onnx(model.SerializeToString()), node) == expected

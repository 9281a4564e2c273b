"""Who is to run a layer: the cheapest division of a sequence, and the counting of multiplications."""

from itertools import pairwise, product

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_models import ModelBuilder

from dualsparse import Engine
from dualsparse.estimates import CROSSING, _cheapest, _Costs, node_macs
from dualsparse.onnx_import import import_onnx

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


def test_dense_floats_go_to_onnxruntime_and_few_weights_stay():
    for density, share in ((1.0, 0.0), (0.01, 1.0)):
        builder = ModelBuilder((64, 20, 20)).conv(64, (5, 5), density).node("Relu").conv(64, (5, 5), density)
        assert Engine.from_onnx(builder.content(), 1).own_share == share


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

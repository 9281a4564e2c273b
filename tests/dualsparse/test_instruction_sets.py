"""Every instruction set's kernels give the same bits as the reference, on any machine: uncompiled, with NumPy twins."""

from dataclasses import replace

import numpy as np
import pytest
from random_networks import GATE, Network, float_layers
from twins import operations, run_uncompiled

from dualsparse.kernels.batch_program import BatchBuilder
from dualsparse.kernels.compilation import aligned
from dualsparse.kernels.float_program import FloatBuilder
from dualsparse.kernels.instruction_sets import INSTRUCTION_SETS, InstructionSet
from dualsparse.kernels.programs import choose_builder
from dualsparse.kernels.sample_program import SampleBuilder
from dualsparse.layers import ColumnGate
from dualsparse.reference import run_layers


@pytest.fixture(params=INSTRUCTION_SETS.values(), ids=lambda found: found.name)
def instruction_set(request) -> InstructionSet:
    return request.param


def run(builder: SampleBuilder | BatchBuilder, x: np.ndarray, output_shape: tuple[int, ...]) -> np.ndarray:
    constants, workspace = builder.constants.blob(), aligned(builder.workspace())
    out = np.full((len(x), *output_shape), np.nan, np.float32)
    function = run_uncompiled(builder.text(), builder.instruction_set)
    with np.errstate(all="ignore"):
        assert function(x, out, workspace.ctypes.data, constants.ctypes.data, 0) == 0
    return out


def assert_exact(network: Network, instruction_set: InstructionSet, gate: ColumnGate | None = None, samples: int = 2):
    builder = choose_builder(network.layers, network.quantization, gate, instruction_set=instruction_set)
    x = network.inputs(samples)
    expected = run_layers(tuple(network.layers), gate, network.quantization, x)
    assert expected.std() > 0
    np.testing.assert_array_equal(run(builder, x, network.shape), expected)
    return builder


def test_convolution_of_one_channel_and_channels_picked_in_shared_windows(instruction_set):
    network = Network(1, (1, 8, 16), 77)
    network.conv(48, (3, 3), pool=(2, 2)).conv(64, (2, 2), window_sharing=16, zero_point=3)
    network.linear(70, window_sharing=16).linear(5, last=True)
    builder = assert_exact(network, instruction_set, samples=1)
    assert builder.kernels == ["taps", "n of 64", "n of 64", "quads"]


def test_arbitrary_n_of_64(instruction_set):
    network = Network(9, (64, 3, 4), 10)
    assert_exact(network.conv(20, (2, 2), n=4).linear(9, last=True), instruction_set)


def test_largest_weights_and_activations_do_not_saturate(instruction_set):
    network = Network(2, (64,), 0)
    network.linear(33, n=16, relu=False, zero_point=128).linear(9, last=True, relu=False)
    for layer in network.layers:
        layer.weight[:] = np.where(layer.weight > 0, 127, np.where(layer.weight < 0, -128, 0))
    builder = SampleBuilder(network.layers, network.quantization, None, 1, instruction_set)
    x = np.concatenate([np.full((1, 64), 1e3), network.rng.choice([0, 1e3], (1, 64))]).astype(np.float32)
    expected = run_layers(tuple(network.layers), None, network.quantization, x)
    np.testing.assert_array_equal(run(builder, x, network.shape), expected)


def test_dense_layers_padding_strides_and_zero_points(instruction_set):
    network = Network(3, (3, 6, 7), 50)
    network.conv(20, (3, 3), stride=(1, 2), padding=(1, 2, 0, 1), zero_point=4)
    network.conv(17, (1, 1), relu=False, zero_point=130, pool=(1, 2)).linear(33, zero_point=2)
    network.linear(9, relu=False, last=True)
    assert_exact(network, instruction_set)


@pytest.mark.parametrize("outputs", [5, 24, 40, 64, 72, 100])
def test_blocks_of_outputs_stay_within_their_positions(instruction_set, outputs):
    network = Network(11, (1, 4, 16), 20).conv(min(outputs, 64), (3, 3), zero_point=3)
    assert_exact(network.conv(outputs, (1, 2), zero_point=7).linear(9, last=True), instruction_set, samples=1)


def test_column_gate_and_outputs_that_share_channels(instruction_set):
    network = Network(4, (1, 6, 16), 77).conv(64, (3, 3), pool=(2, 2))
    network.linear(130, n=4, sharing=4).linear(6, last=True)
    gate = replace(GATE, kernel_width=4, stride_width=2, keep=2, columns=7, layer_index=0)
    assert_exact(network, instruction_set, gate)


def test_gate_before_a_convolution(instruction_set):
    network = Network(5, (1, 6, 16), 100).conv(20, (3, 3), zero_point=9, pool=(2, 2))
    network.conv(8, (1, 3), zero_point=5, relu=False).linear(6, last=True)
    assert_exact(network, instruction_set, replace(GATE, kernel_width=4, stride_width=2, columns=7, layer_index=0))


def test_winners_and_events(instruction_set):
    network = Network(6, (1, 5, 16), 50)
    network.conv(20, (3, 3), winners=200, zero_point=0).linear(70, density=0.5).linear(5, last=True)
    network.layers[1] = replace(network.layers[1], active=0.01)
    assert assert_exact(network, instruction_set).kernels == ["taps", "events", "quads"]


def test_blocks_of_four_channels_in_batches(instruction_set):
    network = Network(7, (1, 5, 6), 90).conv(8, (3, 3), density=0.4, padding=(1, 1, 0, 1), zero_point=6)
    network.conv(5, (2, 2), density=0.5, pool=(2, 1)).linear(5, last=True)
    x = network.inputs(3)
    found = run(BatchBuilder(network.layers, network.quantization, 64, instruction_set), x, network.shape)
    np.testing.assert_array_equal(found, run_layers(tuple(network.layers), None, network.quantization, x))


def test_float_layers_in_batches(instruction_set):
    network = Network(8, (2, 5, 6), 0).conv(6, (3, 3), density=0.3, padding=(1, 1, 1, 1), pool=(2, 2))
    layers = float_layers(network.linear(7, density=0.5))
    x = network.inputs(3)
    expected = run_layers(tuple(layers), None, None, x)
    found = run(BatchBuilder(layers, None, 64, instruction_set), x, expected.shape[1:])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_float_layers_sample_by_sample(instruction_set):
    network = Network(10, (2, 9, 21), 0).conv(6, (3, 3), density=0.4, padding=(1, 2, 1, 0), pool=(2, 2))
    network.conv(5, (2, 3), density=0.5, stride=(2, 1), relu=False).conv(4, (1, 2), dilation=(1, 2), pool=(1, 3))
    network.linear(40, density=0.2).linear(9, relu=False)
    layers = float_layers(network)
    for count in (5, 3):  # the last layer a linear one, then a convolution
        x = network.inputs(2)
        expected = run_layers(tuple(layers[:count]), None, None, x)
        found = run(FloatBuilder(layers[:count], instruction_set), x, expected.shape[1:])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_products_that_are_left_out_are_what_the_set_says(instruction_set):
    """Of every activation and weight, so that nothing depends on how lucky random ones are."""
    twins = operations(instruction_set)
    lanes = instruction_set.lanes
    activations = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(-1, lanes * 4)
    for weight in range(-128, 128, 5):
        weights = np.resize(np.array([weight, -128, 127, weight], np.int8), lanes * 4)
        left_out = instruction_set.left_out(weights.reshape(lanes, 4))
        for block in activations:
            sums = (block.reshape(lanes, 4).astype(np.int64) * weights.reshape(lanes, 4)).sum(axis=1)
            zero = np.zeros(lanes, np.int32)
            operands = np.ascontiguousarray(block).view(np.int32), weights.view(np.int32)
            np.testing.assert_array_equal(twins["dot"](zero, *operands) + left_out, sums)
            np.testing.assert_array_equal(twins["dot_exact"](zero, *operands), sums)

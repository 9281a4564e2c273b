"""The compiled programs give the same bits as the NumPy reference, whatever the shapes and the sparsity."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from random_networks import GATE, Network, float_layers

from dualsparse.kernels import choose_builder
from dualsparse.kernels.batch_program import BatchBuilder
from dualsparse.kernels.instruction_sets import INSTRUCTION_SETS, InstructionSet
from dualsparse.layers import ColumnGate
from dualsparse.reference import run_layers

#: Those that this machine has. `test_instruction_sets` runs all sets' kernels, uncompiled, on any machine.
PRESENT = [found for found in INSTRUCTION_SETS.values() if not found.missing()]
pytestmark = pytest.mark.skipif(not PRESENT, reason="this CPU has no compiled programs")
every_set = pytest.mark.parametrize("instruction_set", PRESENT, ids=lambda found: found.name)


@pytest.fixture
def instruction_set() -> InstructionSet:
    """The best, where a test doesn't run with `every_set`."""
    return PRESENT[0]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Compiled code of its own, so that nothing of an earlier version is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUALSPARSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def planned(network: Network, instruction_set: InstructionSet, gate: ColumnGate | None = None):
    return choose_builder(network.layers, network.quantization, gate, instruction_set=instruction_set)


def compiled(network: Network, instruction_set: InstructionSet, gate: ColumnGate | None = None):
    return planned(network, instruction_set, gate).program()


def assert_exact(network: Network, instruction_set: InstructionSet, gate: ColumnGate | None = None, samples=(1, 3, 33)):
    program = compiled(network, instruction_set, gate)
    assert len(program.kernels) == len(network.layers)
    for count in samples:
        x = network.inputs(count)
        x.setflags(write=False)
        out = np.full((count, *network.shape), np.nan, np.float32)
        assert program(x, out) == 0
        expected = run_layers(tuple(network.layers), gate, network.quantization, x)
        assert expected.std() > 0
        np.testing.assert_array_equal(out, expected)
    return program


def names(program) -> list[str]:
    """The kernels of the layers, without the instruction set."""
    return [kernel.split(",")[0] for kernel in program.kernels]


def speech_network() -> Network:
    """The shapes of the study's network; always the same, so that it is compiled once."""
    network = Network(0, (1, 32, 32), 77)
    network.conv(64, (5, 5), density=0.5, pool=(2, 2)).conv(64, (5, 5), n=4, pool=(2, 2))
    return network.linear(1500, n=4).linear(12, last=True, relu=False)


@every_set
def test_speech_network(instruction_set):
    program = assert_exact(speech_network(), instruction_set)
    assert names(program) == ["taps", "n of 64", "n of 64", "quads"]


@pytest.mark.parametrize(("outputs", "zero_point", "k"), [(64, 0, 300), (20, 7, 1), (20, 0, 1000)])
def test_winners(instruction_set, outputs, zero_point, k):
    """Also where bytes without an output lie between the outputs, and where all or only one output wins."""
    network = Network(3, (1, 18, 32), 50)
    network.conv(outputs, (5, 5), pool=(2, 2), winners=k, zero_point=zero_point)
    network.conv(70, (3, 3), density=0.2, padding=(1, 1, 1, 1), winners=400, zero_point=zero_point)
    network.linear(150, density=0.2, winners=20, zero_point=zero_point).linear(12, last=True, relu=False)
    assert_exact(network, instruction_set)


def test_winners_beside_a_gate_have_no_program(instruction_set):
    network = Network(3, (1, 18, 32), 50).conv(64, (5, 5), winners=100).linear(12, last=True)
    assert planned(network, instruction_set) is not None
    assert planned(network, instruction_set, replace(GATE, layer_index=0, columns=3)) is None


def test_linear_layer_whose_weights_exceed_the_first_level_cache(instruction_set):
    """1600 x 128 weights with 8 of 64 take 51 KB."""
    network = Network(6, (64, 5, 5), 40)
    network.linear(300, n=8, zero_point=7).linear(12, last=True, relu=False)
    program = assert_exact(network, instruction_set)
    assert names(program)[0] == "n of 64"
    alone = Network(7, (64, 5, 5), 40)
    alone.linear(300, n=12, last=True)
    assert_exact(alone, instruction_set)


@pytest.mark.parametrize(("n", "outputs", "zero_point"), [(4, 150, 0), (8, 301, 7), (13, 64, 0)])
def test_linear_layers_whose_outputs_share_channels_in_fours(instruction_set, n, outputs, zero_point):
    """What picks the channels takes a quarter of the bytes; a zero among the weights of four changes nothing."""
    network = Network(8, (64, 5, 5), 40)
    network.linear(outputs, n=n, sharing=4, density=0.9, zero_point=zero_point)
    network.linear(70, n=4, sharing=4, zero_point=3).linear(20, n=4, sharing=4, last=True)
    shared = assert_exact(network, instruction_set).operations[0].weight_bytes
    other = Network(8, (64, 5, 5), 40)
    other.linear(outputs, n=n).linear(12, last=True)
    assert shared == compiled(other, instruction_set).operations[0].weight_bytes * 80 // 128


@every_set
def test_gated_linear_layer_whose_outputs_share_channels_in_fours(instruction_set):
    network = Network(9, (1, 32, 32), 77).conv(64, (5, 5), pool=(2, 2)).conv(64, (5, 5), n=4, pool=(2, 2))
    network.linear(200, n=8, sharing=4).linear(12, last=True, relu=False)
    assert_exact(network, instruction_set, GATE)


@every_set
def test_speech_network_with_column_gate(instruction_set):
    assert_exact(speech_network(), instruction_set, GATE, samples=(1, 50))


def test_pair_gate(instruction_set):
    gate = replace(GATE, keep=1, pair=True)
    assert_exact(speech_network(), instruction_set, gate, samples=(1, 50))


def test_gate_with_equal_energies_keeps_all_of_them(instruction_set):
    network = speech_network()
    program = compiled(network, instruction_set, GATE)
    x = np.zeros((2, 1, 32, 32), np.float32)
    out = np.empty((2, 12), np.float32)
    assert program(x, out) == 0
    np.testing.assert_array_equal(out, run_layers(tuple(network.layers), GATE, network.quantization, x))


def test_gate_whose_layer_has_a_zero_point_and_is_read_by_a_convolution(instruction_set):
    network = Network(3, (1, 20, 32), 100)
    network.conv(32, (3, 3), zero_point=9, padding=(1, 1, 1, 1), pool=(2, 2))
    network.conv(64, (3, 3), n=4, zero_point=5, relu=False, stride=(1, 2)).conv(16, (3, 3), density=0.3, zero_point=3)
    network.linear(20, last=True, relu=True)
    assert_exact(network, instruction_set, ColumnGate(kernel_width=8, stride_width=4, keep=3, columns=7, layer_index=1))


def test_group_of_outputs_that_needs_few_taps(instruction_set):
    network = Network(4, (1, 32, 32), 128)
    network.conv(64, (5, 5), pool=(2, 2)).linear(10, density=0.1, last=True)
    weight = network.layers[0].weight
    # Scattered over the groups: the kernel has to bring the outputs with equal taps together.
    weight[np.arange(64) % 3 == 0, 0, 2:] = 0
    weight[np.arange(64) % 3 == 1, 0, :, 3:] = 0
    assert_exact(network, instruction_set)


@every_set
def test_odd_shapes_strides_padding_dilation(instruction_set):
    network = Network(5, (3, 17, 23), 50)
    network.conv(40, (3, 5), stride=(1, 2), padding=(1, 2, 0, 1), zero_point=4)
    network.conv(100, (3, 3), n=None, density=0.06, dilation=(2, 1), padding=(2, 0, 2, 0), pool=(3, 2), zero_point=11)
    network.conv(17, (1, 1), relu=False, zero_point=130)
    network.linear(70, density=0.05, zero_point=2).linear(33, relu=False, last=True)
    assert_exact(network, instruction_set)


def test_one_dimensional_network_with_eight_of_64(instruction_set):
    network = Network(6, (64, 1, 101), 128)
    network.conv(128, (1, 5), n=8, stride=(1, 2), padding=(0, 2, 0, 2)).conv(64, (1, 3), n=3, pool=(1, 4))
    network.linear(5, last=True)
    program = assert_exact(network, instruction_set)
    assert names(program)[:2] == ["n of 64"] * 2


@pytest.mark.parametrize("shape", [(784,), (1, 9, 7)])
def test_linear_layers_only(instruction_set, shape):
    network = Network(7, shape, 12)
    network.linear(300, density=0.2, zero_point=1).linear(130, density=0.05).linear(3, last=True, relu=False)
    assert_exact(network, instruction_set, samples=(1, 16, 257))


def assert_events_exact(network: Network, instruction_set: InstructionSet, share: float, samples=(1, 2, 3, 17)):
    """Like `assert_exact`, on inputs of which `share` are active, for layers that are told so."""
    network.layers = [replace(layer, active=min(share, 0.02)) for layer in network.layers]
    program = compiled(network, instruction_set)
    assert "events" in names(program)
    for count in samples:
        x = np.abs(network.inputs(count)) * (network.rng.random((count, *network.layers[0].input_shape)) < share)
        x = x.astype(np.float32)
        out = np.full((count, *network.shape), np.nan, np.float32)
        assert program(x, out) == 0
        expected = run_layers(tuple(network.layers), None, network.quantization, x)
        np.testing.assert_array_equal(out, expected)
    return program


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_linear_layers_of_active_inputs(instruction_set, share):
    network = Network(20, (777,), 0)
    network.linear(300).linear(1000, density=0.5).linear(200, relu=False, last=True)
    assert names(assert_events_exact(network, instruction_set, share)) == ["events"] * 3


@every_set
def test_active_inputs_behind_a_convolution_and_of_several_channels(instruction_set):
    network = Network(21, (3, 14, 11), 0)
    network.conv(48, (3, 3), stride=(2, 1), relu=True).linear(130).linear(5, last=True)
    assert names(assert_events_exact(network, instruction_set, 0.3))[1] == "events"
    network = Network(22, (5, 9, 7), 0)
    assert_events_exact(network.linear(400, last=True), instruction_set, 0.2)


def test_active_inputs_do_not_matter_where_zero_is_not_the_zero_point(instruction_set):
    network = Network(23, (640,), 9)
    network.linear(640, last=True)
    network.layers = [replace(network.layers[0], active=0.01)]
    assert names(assert_exact(network, instruction_set)) == ["quads"]


def test_extreme_inputs_saturate_and_others_are_refused(instruction_set):
    network = speech_network()
    program = compiled(network, instruction_set)
    x = network.inputs(4)
    x[0, 0, 3, 5], x[1, 0, 30, 31], x[2, 0, 0, 0] = 9e36, -9e36, 1e10
    out = np.empty((4, 12), np.float32)
    assert program(x, out) == 0
    np.testing.assert_array_equal(out, run_layers(tuple(network.layers), None, network.quantization, x))
    for value in (np.nan, np.inf, -np.inf):
        broken = x.copy()
        broken[3, 0, 31, 30] = value
        assert program(broken, out) == 1


def test_threads_share_a_program(instruction_set):
    network = speech_network()
    program = compiled(network, instruction_set, GATE)
    x = network.inputs(64)
    expected = run_layers(tuple(network.layers), GATE, network.quantization, x)
    out = np.empty((4, 64, 12), np.float32)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            assert list(pool.map(program, [x] * 4, out)) == [0] * 4
    np.testing.assert_array_equal(out, np.broadcast_to(expected, out.shape))


@every_set
def test_blocks_of_four_channels_in_batches(instruction_set):
    network = Network(12, (1, 12, 13), 90)
    network.conv(18, (5, 5), density=0.4, padding=(1, 2, 1, 0), pool=(2, 2), zero_point=6)
    # Enough channels to be cut into splits.
    network.conv(140, (3, 3), density=0.05, zero_point=2, relu=False).conv(33, (2, 2), density=0.05, stride=(2, 1))
    network.linear(70, density=0.05, zero_point=1).linear(11, density=0.3, last=True)
    for layer in network.layers[1:]:
        blocks = layer.weight.reshape(len(layer.weight), layer.weight.shape[1], -1)
        blocks[:, np.arange(blocks.shape[1]) // 4 % 3 != 0] = 0
    program = BatchBuilder(network.layers, network.quantization, 64, instruction_set).program()
    for samples in (1, 32, 50):
        x = network.inputs(samples)
        out = np.empty((samples, 11), np.float32)
        assert program(x, out) == 0
        np.testing.assert_array_equal(out, run_layers(tuple(network.layers), None, network.quantization, x))


@every_set
def test_unstructured_float(instruction_set):
    network = Network(13, (3, 12, 10), 0)
    network.conv(40, (3, 3), density=0.3, padding=(1, 1, 1, 1), pool=(2, 2)).conv(300, (3, 2), density=0.05)
    network.conv(9, (1, 1), stride=(2, 1), density=0.2, relu=False).linear(30, density=0.2).linear(5, relu=False)
    layers = float_layers(network)
    # The last layer a linear one, then a convolution; batches, and samples one by one.
    for count, batch_size in ((5, 64), (3, 64), (5, 1)):
        builder = choose_builder(layers[:count], None, batch_size=batch_size, instruction_set=instruction_set)
        program = builder.program()
        for samples in (1, 50):
            x = network.inputs(samples)
            expected = run_layers(tuple(layers[:count]), None, None, x)
            out = np.empty(expected.shape, np.float32)
            assert program(x, out) == 0
            np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    x[49, 2, 11, 9] = np.inf
    assert program(x, out) == 1


def test_no_program_for_what_kernels_cannot_do(instruction_set):
    network = speech_network()
    network.layers[1] = replace(network.layers[1], groups=2, weight=network.layers[1].weight[:, :32])
    assert planned(network, instruction_set) is None
    assert choose_builder(speech_network().layers[:2], network.quantization, instruction_set=instruction_set) is None

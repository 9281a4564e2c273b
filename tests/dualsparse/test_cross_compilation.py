"""Kernels compile for processors that aren't here: with the instructions that they are made for, without a spill."""

import re

import pytest
from random_networks import Network

from benchmarks.dualsparse_cross_compilation import PROCESSORS, assembly, functions, inner_loops
from dualsparse.kernels.instruction_sets import INSTRUCTION_SETS
from dualsparse.kernels.programs import choose_builder
from dualsparse.kernels.sample_program import SampleBuilder

#: What picks, and what multiplies.
INSTRUCTIONS = {
    "avx512_vbmi": ("vpermb", "vpdpbusd"),
    "avx512_vnni": ("vpshufb", "vpdpbusd"),
    "avx_vnni": ("vpshufb", "vpdpbusd"),
    "avx2": ("vpshufb", "vpmaddubsw"),
    "neon": ("tbl", "sdot"),
    "neon_i8mm": ("tbl", "usdot"),
}
REGISTERS = {16: "%zmm", 8: "%ymm", 4: "v"}


@pytest.fixture(params=PROCESSORS, scope="module")
def processor(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def program(processor: str) -> tuple[SampleBuilder, dict]:
    """A network of the study's shapes: one channel, picked channels in shared windows, picked ones, dense."""
    instruction_set = INSTRUCTION_SETS[PROCESSORS[processor]]
    network = Network(0, (1, 32, 32), 77).conv(64, (5, 5), pool=(2, 2))
    network.conv(64, (5, 5), window_sharing=16, pool=(2, 2)).linear(256, window_sharing=16)
    network.linear(12, last=True)
    builder = choose_builder(network.layers, network.quantization, instruction_set=instruction_set)
    return builder, functions(builder.text())


def count(loop: list[str], name: str) -> int:
    return sum(line.split()[0] == name or line.startswith(f"{{vex}}\t{name}") for line in loop)


def heaviest_loop(code: str, multiply: str) -> list[str]:
    return max(inner_loops(code), key=lambda loop: count(loop, multiply))


def assert_nothing_spilled(loop: list[str]) -> None:
    """Nothing goes to the stack. (A constant may come from there.)"""
    for line in loop:
        assert not re.search(r"[%\w]+, -?\d*\(%rsp\)$|\bst\w+\s.*\[sp", line), line


def test_convolution_with_picked_channels(processor, program):
    builder, kernels = program
    isa = builder.instruction_set
    pick, multiply = INSTRUCTIONS[isa.name]
    assert builder.kernels[1] == "n of 64"
    loop = heaviest_loop(assembly(kernels["layer1"], processor), multiply)
    positions = count(loop, multiply)
    assert positions >= 8 and count(loop, pick) == positions
    assert sum(REGISTERS[isa.lanes] in line for line in loop) >= 2 * positions
    assert_nothing_spilled(loop)


def test_convolution_of_one_channel(processor, program):
    builder, kernels = program
    _, multiply = INSTRUCTIONS[builder.instruction_set.name]
    name = "layer0_0" if builder.instruction_set.dot_is_exact else "layer0"
    code = assembly(kernels[name], processor)
    if builder.instruction_set.dot_is_exact:
        # Written out, it is one long block: 7 quads of 5 x 5 taps, 8 sums at least.
        assert len(re.findall(rf"\b{multiply}\b", code)) >= 7 * 8
        assert not re.search(r"(\(%rsp\).*%[yz]mm|%[yz]mm.*\(%rsp\)|str\s+q.*\[sp|ldr\s+q.*\[sp)", code)
    else:
        loop = heaviest_loop(code, multiply)
        assert count(loop, multiply) >= 8
        assert_nothing_spilled(loop)


@pytest.mark.parametrize("layer", ["layer2", "layer3"])
def test_linear_layers(processor, program, layer):
    builder, kernels = program
    pick, multiply = INSTRUCTIONS[builder.instruction_set.name]
    loop = heaviest_loop(assembly(kernels[layer], processor), multiply)
    assert count(loop, multiply) >= (1 if layer == "layer3" else 2)
    assert (count(loop, pick) > 0) == (layer == "layer2")
    assert_nothing_spilled(loop)

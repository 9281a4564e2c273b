"""The choice between the programs that can run a sequence of layers."""

from collections.abc import Sequence
from contextlib import suppress

from dualsparse.layers import ColumnGate, FloatLayer, InputQuantization, IntegerLayer

from .batch_program import BatchBuilder
from .compilation import CompiledProgram, Unsupported
from .float_program import FloatBuilder
from .instruction_sets import InstructionSet
from .sample_program import SampleBuilder

#: What was planned of a program: its kernels and cycles by layer; `program()` compiles it.
Builder = SampleBuilder | FloatBuilder | BatchBuilder
#: The smallest batch for which a register of samples is considered.
LEAST_BATCH = 4


def compile_program(
    layers: Sequence[FloatLayer] | Sequence[IntegerLayer],
    quantization: InputQuantization | None,
    gate: ColumnGate | None = None,
    batch_size: int = 1,
    *,
    instruction_set: InstructionSet,
) -> CompiledProgram | None:
    """Compile a sequence of layers, or load it from the cache of an earlier run.

    Args:
        layers: all of integers, the last one with float32 output; or all of float32.
        quantization: of the float32 input, for layers of integers.
        gate: a choice of columns, or None.
        batch_size: how many samples a call usually has. Programs run any number, but are made for it.

    Returns:
        The fastest program; None if this sequence of layers has no fast one.
    """
    builder = choose_builder(layers, quantization, gate, batch_size, instruction_set)
    return None if builder is None else builder.program()


def choose_builder(
    layers: Sequence[FloatLayer] | Sequence[IntegerLayer],
    quantization: InputQuantization | None,
    gate: ColumnGate | None,
    batch_size: int,
    instruction_set: InstructionSet,
) -> Builder | None:
    """Plan a program and compile nothing; see `compile_program`."""
    builders = []
    with suppress(Unsupported):
        if quantization is None:
            builders.append(FloatBuilder(layers, instruction_set))
        else:
            for sort_outputs in (True, False) if instruction_set.window < 64 else (True,):
                builders.append(SampleBuilder(layers, quantization, gate, batch_size, instruction_set, sort_outputs))
    with suppress(Unsupported):
        if gate is None and batch_size >= LEAST_BATCH:
            builders.append(BatchBuilder(layers, quantization, batch_size, instruction_set))
    return min(builders, key=lambda builder: sum(builder.cycles), default=None)

"""The choice between the programs that can run a sequence of layers."""

from collections.abc import Sequence
from contextlib import suppress

from dualsparse.layers import ColumnGate, FloatLayer, InputQuantization, IntegerLayer

from .batch_program import BatchBuilder
from .compilation import Unsupported
from .float_program import FloatBuilder
from .instruction_sets import InstructionSet
from .sample_program import SampleBuilder

#: What was planned of a program: its kernels and cycles by layer; `program()` compiles it.
Builder = SampleBuilder | FloatBuilder | BatchBuilder
#: The smallest batch for which a register of samples is considered.
LEAST_BATCH = 4


def choose_builder(
    layers: Sequence[FloatLayer] | Sequence[IntegerLayer],
    quantization: InputQuantization | None,
    gate: ColumnGate | None = None,
    batch_size: int = 1,
    *,
    instruction_set: InstructionSet,
) -> Builder | None:
    """Plan the fastest program of a sequence of layers; nothing is compiled.

    Args:
        layers: all of integers, the last one with float32 output; or all of float32.
        quantization: of the float32 input, for layers of integers.
        gate: a choice of columns, or None.
        batch_size: how many samples a call usually has. Programs run any number, but are made for it.

    Returns:
        What compiles the program, or loads it from the cache of an earlier run; None if there is no fast one.
    """
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

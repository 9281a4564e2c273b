"""NEON with usdot (Armv8.6): Neoverse V1 and V2, Apple M2. It multiplies unsigned with signed bytes."""

from dataclasses import replace

from .instruction_set import nothing_left_out, restriction
from .neon import *
from .neon import _DOUBLEWORDS, INT8, as_vector, call
from .neon import INSTRUCTION_SET as _WITHOUT_USDOT

INSTRUCTION_SET = replace(
    _WITHOUT_USDOT,
    name="neon_i8mm",
    title="NEON usdot",
    needs=_WITHOUT_USDOT.needs | {"i8mm"},
    beyond=("sve", "sme"),
    dot_cycles=0.25,
    left_out=nothing_left_out,
)
restrict_target = restriction(INSTRUCTION_SET)
append_active = appending(4, restrict_target)


def _dot(builder, sums, activations, weights):
    values = [sums, as_vector(builder, activations, INT8), as_vector(builder, weights, INT8)]
    return call(builder, "llvm.aarch64.neon.usdot.v4i32.v16i8", _DOUBLEWORDS, values)


#: usdot.
dot = dot_exact = ternary(_dot)

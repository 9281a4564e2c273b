"""NEON with the dot product (Armv8.2): Neoverse N1, Apple M1. It multiplies signed bytes only.

So activations are used less 128, which leaves 128 times the sum of the weights out of a sum of products.
"""

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from dualsparse.kernels.registers import *
from dualsparse.kernels.registers import (
    INT8,
    INT16,
    INT32,
    Creation,
    appending,
    as_floats,
    as_vector,
    call,
    constant,
    operation,
    shuffle,
)

from .instruction_set import InstructionSet, restriction


def _left_out(weights: np.ndarray) -> np.ndarray:
    return 128 * weights.astype(np.int64).reshape(len(weights), -1).sum(axis=1)


INSTRUCTION_SET = InstructionSet(
    name="neon",
    title="NEON dot product",
    lanes=4,
    window=16,
    accumulators=24,
    needs=frozenset({"neon", "dotprod"}),
    beyond=("i8mm", "sve", "sme"),
    pick_cycles=0.5,
    dot_cycles=0.5,
    left_out=_left_out,
)
restrict_target = restriction(INSTRUCTION_SET)
_create = Creation(4)
load, broadcast, load_bytes, gather = _create.load, _create.broadcast, _create.load_bytes, _create.gather
splat, splat_byte, splat_float, count_up = _create.splat, _create.splat_byte, _create.splat_float, _create.count_up
_BYTES, _DOUBLEWORDS = ir.VectorType(INT8, 16), ir.VectorType(INT32, 4)

#: ldr.
load_window = load


def _pick(builder, index, window):
    return call(builder, "llvm.aarch64.neon.tbl1.v16i8", _BYTES, [window, index])


#: tbl.
pick = binary(on_bytes(_pick))


def _sdot(builder, sums, activations, weights):
    return call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", _DOUBLEWORDS, [sums, activations, weights])


def _dot(builder, sums, activations, weights):
    activations, weights = as_vector(builder, activations, INT8), as_vector(builder, weights, INT8)
    return _sdot(builder, sums, builder.xor(activations, constant(activations, -128)), weights)


#: eor, sdot.
dot = ternary(_dot)


def _dot_exact(builder, sums, activations, weights):
    # 64 times the weights, twice.
    weights = as_vector(builder, weights, INT8)
    for _ in range(2):
        sums = _sdot(builder, sums, constant(weights, 64), weights)
    return _dot(builder, sums, activations, weights)


dot_exact = ternary(_dot_exact)


@intrinsic
def pack(typing, a, b, c, d):
    """sqxtun, uqxtn."""

    def emit(builder, a, b, c, d):
        four, eight = ir.VectorType(INT16, 4), ir.VectorType(INT8, 8)
        words = [call(builder, "llvm.aarch64.neon.sqxtun.v4i16", four, [value]) for value in (a, b, c, d)]
        pairs = [shuffle(builder, *words[i : i + 2], list(range(8))) for i in (0, 2)]
        low, high = (call(builder, "llvm.aarch64.neon.uqxtn.v8i8", eight, [pair]) for pair in pairs)
        return shuffle(builder, low, high, list(range(16)))

    return operation([a, b, c, d], emit, a)


def _to_int(builder, value):
    return call(builder, "llvm.aarch64.neon.fcvtns.v4i32.v4f32", _DOUBLEWORDS, [as_floats(builder, value)])


#: fcvtns.
to_int = unary(_to_int)
append_active = appending(4, restrict_target)

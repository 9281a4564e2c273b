"""AVX2: Haswell to Rocket Lake, Zen 1 to 3. Four instructions multiply bytes and add the products.

vpmaddubsw adds two products in 16 bits, which saturate if a large activation meets two large weights. So the unsigned
factor is the weight's magnitude here, and the signed one the activation less 128, complemented where the weight is
negative: two products are at most 2 * 128 * 128 in size, and the sum is exact. With x an activation, w a weight and
~a = -a - 1, the products are w (x - 128), and w more where w < 0; both are known beforehand, see `_left_out`.
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
)

from .instruction_set import InstructionSet, restriction


def _left_out(weights: np.ndarray) -> np.ndarray:
    flat = weights.astype(np.int64).reshape(len(weights), -1)
    return 128 * flat.sum(axis=1) - np.minimum(flat, 0).sum(axis=1)


INSTRUCTION_SET = InstructionSet(
    name="avx2",
    title="AVX2",
    lanes=8,
    window=16,
    accumulators=12,
    needs=frozenset({"avx2", "fma"}),
    beyond=("avx512", "avx10", "avxvnni", "avxifma", "avxneconvert", "gfni"),
    pick_cycles=0.25,
    dot_cycles=1,
    left_out=_left_out,
)
restrict_target = restriction(INSTRUCTION_SET)
_create = Creation(8)
load, broadcast, load_bytes, gather = _create.load, _create.broadcast, _create.load_bytes, _create.gather
splat, splat_byte, splat_float, count_up = _create.splat, _create.splat_byte, _create.splat_float, _create.count_up
_BYTES, _WORDS, _DOUBLEWORDS = (ir.VectorType(element, 256 // element.width) for element in (INT8, INT16, INT32))

#: vbroadcasti128.
load_window = _create.broadcast_window


def _pick(builder, index, window):
    return call(builder, "llvm.x86.avx2.pshuf.b", _BYTES, [window, index])


#: vpshufb.
pick = binary(on_bytes(_pick))


def _multiply_words(builder, sums, a, b):
    """sums plus products of words, two to a doubleword (vpmaddwd, vpaddd)."""
    return builder.add(sums, call(builder, "llvm.x86.avx2.pmadd.wd", _DOUBLEWORDS, [a, b]))


def _dot(builder, sums, activations, weights):
    activations, weights = as_vector(builder, activations, INT8), as_vector(builder, weights, INT8)
    zero = ir.Constant(_BYTES, None)
    # Of a weight that all positions of a tile use, these are computed once.
    magnitude = call(builder, "llvm.abs.v32i8", _BYTES, [weights, ir.Constant(ir.IntType(1), 0)])
    negative = builder.sext(builder.icmp_signed("<", weights, zero), _BYTES)
    turn = builder.xor(negative, constant(weights, -128))
    signed = builder.xor(activations, turn)
    pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", _WORDS, [magnitude, signed])
    return _multiply_words(builder, sums, pairs, constant(pairs, 1))


#: vpxor, vpmaddubsw, vpmaddwd, vpaddd.
dot = ternary(_dot)


def _dot_exact(builder, sums, activations, weights):
    activations, weights = as_vector(builder, activations, INT16), as_vector(builder, weights, INT16)
    eight = constant(weights, 8)
    even = builder.and_(activations, constant(activations, 255))
    sums = _multiply_words(builder, sums, even, builder.ashr(builder.shl(weights, eight), eight))
    return _multiply_words(builder, sums, builder.lshr(activations, eight), builder.ashr(weights, eight))


#: Even and odd bytes apart, as words.
dot_exact = ternary(_dot_exact)


@intrinsic
def pack(typing, a, b, c, d):
    """vpackssdw twice, vpackuswb."""

    def emit(builder, a, b, c, d):
        low, high = (call(builder, "llvm.x86.avx2.packssdw", _WORDS, pair) for pair in ([a, b], [c, d]))
        return call(builder, "llvm.x86.avx2.packuswb", _BYTES, [low, high])

    return operation([a, b, c, d], emit, a)


def _to_int(builder, value):
    return call(builder, "llvm.x86.avx.cvt.ps2dq.256", _DOUBLEWORDS, [as_floats(builder, value)])


#: vcvtps2dq.
to_int = unary(_to_int)
append_active = appending(8, restrict_target)

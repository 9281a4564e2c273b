"""AVX-512 with VNNI, without VBMI: Cascade Lake, Cooper Lake. Bytes are picked in each 16 of a register by itself."""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dualsparse.kernels.registers import *
from dualsparse.kernels.registers import INT8, INT16, INT32, INT64, Creation, as_floats, as_vector, call, operation

from .instruction_set import InstructionSet, restriction

INSTRUCTION_SET = InstructionSet(
    name="avx512_vnni",
    title="AVX-512 VNNI",
    lanes=16,
    window=16,
    accumulators=24,
    needs=frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"}),
    beyond=("avx512vbmi", "avx512bitalg", "avx512vpopcnt", "avx512ifma", "avx512bf16", "avx512fp16", "avx10", "gfni"),
    pick_cycles=0.5,
    dot_cycles=0.5,
)
restrict_target = restriction(INSTRUCTION_SET)
_create = Creation(16)
load, broadcast, load_bytes, gather = _create.load, _create.broadcast, _create.load_bytes, _create.gather
splat, splat_byte, splat_float, count_up = _create.splat, _create.splat_byte, _create.splat_float, _create.count_up
_BYTES, _WORDS, _DOUBLEWORDS = (ir.VectorType(element, 512 // element.width) for element in (INT8, INT16, INT32))

#: vbroadcasti32x4.
load_window = _create.broadcast_window


def _pick(builder, index, window):
    return call(builder, "llvm.x86.avx512.pshuf.b.512", _BYTES, [window, index])


#: vpshufb.
pick = binary(on_bytes(_pick))


def _dot(builder, sums, activations, weights):
    values = [sums, as_vector(builder, activations, INT8), as_vector(builder, weights, INT8)]
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", _DOUBLEWORDS, values)


#: vpdpbusd.
dot = dot_exact = ternary(_dot)


@intrinsic
def pack(typing, a, b, c, d):
    """vpackssdw twice, vpackuswb."""

    def emit(builder, a, b, c, d):
        low, high = (call(builder, "llvm.x86.avx512.packssdw.512", _WORDS, pair) for pair in ([a, b], [c, d]))
        return call(builder, "llvm.x86.avx512.packuswb.512", _BYTES, [low, high])

    return operation([a, b, c, d], emit, a)


def _to_int(builder, value):
    everything, by_mxcsr = ir.Constant(INT16, 0xFFFF), ir.Constant(INT32, 4)
    values = [as_floats(builder, value), ir.Constant(_DOUBLEWORDS, None), everything, by_mxcsr]
    return call(builder, "llvm.x86.avx512.mask.cvtps2dq.512", _DOUBLEWORDS, values)


#: vcvtps2dq.
to_int = unary(_to_int)


@intrinsic
def _nonzero(typing, value):
    """A bit for each doubleword that isn't zero (vptestmd)."""

    def emit(builder, value):
        bits = builder.icmp_unsigned("!=", value, ir.Constant(_DOUBLEWORDS, None))
        return builder.zext(builder.bitcast(bits, INT16), INT64)

    return operation([value], emit, types.int64)


@intrinsic
def _compress(typing, value, bits):
    """The doublewords whose bits are set, one after the other; zeros behind them (vpcompressd)."""

    def emit(builder, value, bits):
        mask = builder.bitcast(builder.trunc(bits, INT16), ir.VectorType(ir.IntType(1), 16))
        values = [value, ir.Constant(_DOUBLEWORDS, None), mask]
        return call(builder, "llvm.x86.avx512.mask.compress.v16i32", _DOUBLEWORDS, values)

    return operation([value, types.int64], emit, value)


@intrinsic
def _count_bits(typing, value):
    return operation([types.int64], lambda b, value: call(b, "llvm.ctpop.i64", INT64, [value]), types.int64)


@njit
def append_active(levels, first, places, values, count):
    # Written whether active or not, and kept if the count goes on: no branch to guess.
    restrict_target()
    level = load_bytes(levels)
    bits = _nonzero(level)
    store(places + 4 * count, _compress(count_up(first), bits))
    store_bytes(values + count, _compress(level, bits))
    return count + _count_bits(bits)

"""The few machine instructions that the kernels are made of, callable from Numba.

A `Register` is 512 bits that Numba never looks into. It becomes one LLVM vector value, so a local variable of a kernel
stays in one zmm register, which arrays (even of constant size) do not. Each function emits one instruction, through
plain LLVM IR where LLVM has an operation for it, through the x86 intrinsic where it has none; the accesses to memory
are unaligned. Addresses are plain int64: the kernels compute them from constants that the generator knows.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic

BYTES = ir.VectorType(ir.IntType(8), 64)
WORDS = ir.VectorType(ir.IntType(16), 32)
DOUBLEWORDS = ir.VectorType(ir.IntType(32), 16)
FLOATS = ir.VectorType(ir.FloatType(), 16)


class Register(types.Type):
    """512 bits, as 16 doublewords; every instruction reads them as it needs them."""

    def __init__(self):
        super().__init__(name="Register512")


register = Register()


@register_default(Register)
class RegisterModel(models.PrimitiveModel):
    def __init__(self, manager, frontend_type):
        super().__init__(manager, frontend_type, DOUBLEWORDS)


def _instruction(parameters: list[types.Type], emit, returns=register):
    """An intrinsic whose code is `emit(builder, *values)`, values and result being of the parameters' types."""

    def codegen(context, builder, signature, values):
        result = emit(builder, *values)
        if signature.return_type is register and result.type != DOUBLEWORDS:
            result = builder.bitcast(result, DOUBLEWORDS)
        return result if result is not None else context.get_dummy_value()

    return returns(*parameters), codegen


def _call(builder, name: str, result: ir.Type, values: list) -> ir.Value:
    """Calls an LLVM intrinsic; declares it in the module on first use."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [value.type for value in values]), name
    )
    return builder.call(function, values)


def _cast(builder, value, vector: ir.Type):
    return builder.bitcast(value, vector)


def pointer(builder, address, pointee: ir.Type):
    """The address as a pointer, in a function to which address 0 is like any other.

    Where LLVM makes machine code, it writes sums of addresses as offsets from the null pointer. Numba has it optimise
    that form once more when another function calls this one, and what goes through null, LLVM takes for unreachable:
    whole layers would vanish.
    """
    # llvmlite refuses attributes that it doesn't know; LLVM knows this one.
    set.add(builder.function.attributes, "null_pointer_is_valid")
    return builder.inttoptr(address, pointee.as_pointer())


def _splat(builder, scalar, vector: ir.Type):
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)


@intrinsic
def address_of(typing, array):
    """The address of an array's first element."""

    def codegen(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), codegen


@intrinsic
def load(typing, address):
    """64 bytes (vmovdqu64; as an operand of vpermb or vpdpbusd, no instruction at all)."""

    def emit(builder, address):
        return builder.load(pointer(builder, address, DOUBLEWORDS), align=1)

    return _instruction([types.int64], emit)


@intrinsic
def store(typing, address, value):
    """64 bytes (vmovdqu64)."""

    def emit(builder, address, value):
        builder.store(value, pointer(builder, address, DOUBLEWORDS), align=1)

    return _instruction([types.int64, register], emit, types.void)


@intrinsic
def broadcast(typing, address):
    """4 bytes into every doubleword (vpbroadcastd from memory: it takes a load port only, no arithmetic port)."""

    def emit(builder, address):
        return _splat(builder, builder.load(pointer(builder, address, ir.IntType(32)), align=1), DOUBLEWORDS)

    return _instruction([types.int64], emit)


@intrinsic
def permute(typing, index, table):
    """result[i] = table[index[i] % 64], bytes (vpermb, AVX-512 VBMI)."""

    def emit(builder, index, table):
        values = [_cast(builder, table, BYTES), _cast(builder, index, BYTES)]
        return _call(builder, "llvm.x86.avx512.permvar.qi.512", BYTES, values)

    return _instruction([register, register], emit)


@intrinsic
def dot(typing, accumulator, activations, weights):
    """accumulator + sums of four unsigned × signed byte products per doubleword (vpdpbusd, AVX-512 VNNI)."""

    def emit(builder, accumulator, activations, weights):
        # Since LLVM 22 the factors are 64 bytes; before it they were 16 doublewords.
        values = [accumulator, _cast(builder, activations, BYTES), _cast(builder, weights, BYTES)]
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", DOUBLEWORDS, values)

    return _instruction([register, register, register], emit)


@intrinsic
def maximum(typing, a, b):
    """Signed doublewords (vpmaxsd)."""

    def emit(builder, a, b):
        return _call(builder, "llvm.smax.v16i32", DOUBLEWORDS, [a, b])

    return _instruction([register, register], emit)


@intrinsic
def maximum_bytes(typing, a, b):
    """Unsigned bytes (vpmaxub)."""

    def emit(builder, a, b):
        return _call(builder, "llvm.umax.v64i8", BYTES, [_cast(builder, a, BYTES), _cast(builder, b, BYTES)])

    return _instruction([register, register], emit)


@intrinsic
def minimum(typing, a, b):
    """Signed doublewords (vpminsd)."""

    def emit(builder, a, b):
        return _call(builder, "llvm.smin.v16i32", DOUBLEWORDS, [a, b])

    return _instruction([register, register], emit)


@intrinsic
def add(typing, a, b):
    """Doublewords (vpaddd)."""
    return _instruction([register, register], lambda builder, a, b: builder.add(a, b))


@intrinsic
def splat(typing, value):
    """One int32 in every doubleword."""

    def emit(builder, value):
        return _splat(builder, builder.trunc(value, ir.IntType(32)), DOUBLEWORDS)

    return _instruction([types.int64], emit)


@intrinsic
def splat_float(typing, value):
    """One float32 in every doubleword."""
    return _instruction([types.float32], lambda builder, value: _splat(builder, value, FLOATS))


@intrinsic
def to_float(typing, value):
    """int32 to float32, to nearest, half to even (vcvtdq2ps)."""
    return _instruction([register], lambda builder, value: builder.sitofp(value, FLOATS))


@intrinsic
def to_int(typing, value):
    """float32 to int32, to nearest, half to even; -2**31 for what doesn't fit (vcvtps2dq, rounding by MXCSR)."""

    def emit(builder, value):
        everything = ir.Constant(ir.IntType(16), 0xFFFF)
        by_mxcsr = ir.Constant(ir.IntType(32), 4)
        values = [_cast(builder, value, FLOATS), ir.Constant(DOUBLEWORDS, None), everything, by_mxcsr]
        return _call(builder, "llvm.x86.avx512.mask.cvtps2dq.512", DOUBLEWORDS, values)

    return _instruction([register], emit)


@intrinsic
def add_float(typing, a, b):
    """float32 (vaddps)."""
    return _instruction([register, register], lambda b_, a, b: b_.fadd(_cast(b_, a, FLOATS), _cast(b_, b, FLOATS)))


@intrinsic
def multiply_float(typing, a, b):
    """float32 (vmulps). LLVM may not fuse it with an addition: neither carries the flag that allows it."""
    return _instruction([register, register], lambda b_, a, b: b_.fmul(_cast(b_, a, FLOATS), _cast(b_, b, FLOATS)))


@intrinsic
def minimum_float(typing, a, b):
    """float32: a < b ? a : b (vminps)."""

    def emit(builder, a, b):
        a, b = _cast(builder, a, FLOATS), _cast(builder, b, FLOATS)
        return builder.select(builder.fcmp_ordered("<", a, b), a, b)

    return _instruction([register, register], emit)


@intrinsic
def not_negative(typing, value):
    """float32: the value, 0 where it is negative (vmaxps)."""

    def emit(builder, value):
        value, zero = _cast(builder, value, FLOATS), ir.Constant(FLOATS, None)
        return builder.select(builder.fcmp_ordered(">", value, zero), value, zero)

    return _instruction([register], emit)


@intrinsic
def shift_in(typing, high, low):
    """Doublewords: low moves down by 8 bits and takes the lowest byte of high at its top (vpshrdd)."""

    def emit(builder, high, low):
        return _call(builder, "llvm.fshr.v16i32", DOUBLEWORDS, [high, low, ir.Constant(DOUBLEWORDS, [8] * 16)])

    return _instruction([register, register], emit)


@intrinsic
def pack(typing, a, b, c, d):
    """Four times 16 int32, saturated to 64 unsigned bytes (vpackssdw twice, vpackuswb).

    The packs work in each quarter of a register by itself, so byte 16 q + 4 v + i is doubleword 4 q + i of register v.
    The weights of the outputs are laid out accordingly, and nothing has to be put in order here.
    """

    def emit(builder, a, b, c, d):
        low, high = (_call(builder, "llvm.x86.avx512.packssdw.512", WORDS, pair) for pair in ([a, b], [c, d]))
        return _call(builder, "llvm.x86.avx512.packuswb.512", BYTES, [low, high])

    return _instruction([register] * 4, emit)


@intrinsic
def store_bytes(typing, address, value):
    """16 doublewords, none negative, as 16 bytes saturated at 255 (vpmovusdb)."""

    def emit(builder, address, value):
        low = _call(builder, "llvm.umin.v16i32", DOUBLEWORDS, [value, ir.Constant(DOUBLEWORDS, [255] * 16)])
        quarter = ir.VectorType(ir.IntType(8), 16)
        builder.store(builder.trunc(low, quarter), pointer(builder, address, quarter), align=1)

    return _instruction([types.int64, register], emit, types.void)


@intrinsic
def any_nonzero(typing, value):
    """Whether any bit is set (vptestmd, kortest)."""

    def emit(builder, value):
        bits = builder.bitcast(builder.icmp_unsigned("!=", value, ir.Constant(DOUBLEWORDS, None)), ir.IntType(16))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(16), 0))

    return _instruction([register], emit, types.boolean)


def _scalar_load(kind: types.Type, pointee: ir.Type, widen):
    @intrinsic
    def scalar_load(typing, address):
        def emit(builder, address):
            return widen(builder, builder.load(pointer(builder, address, pointee), align=1))

        return _instruction([types.int64], emit, kind)

    return scalar_load


def _scalar_store(kind: types.Type, pointee: ir.Type, narrow):
    @intrinsic
    def scalar_store(typing, address, value):
        def emit(builder, address, value):
            builder.store(narrow(builder, value), pointer(builder, address, pointee), align=1)

        return _instruction([types.int64, kind], emit, types.void)

    return scalar_store


_INT64 = ir.IntType(64)
load_int32 = _scalar_load(types.int64, ir.IntType(32), lambda builder, value: builder.sext(value, _INT64))
load_int64 = _scalar_load(types.int64, _INT64, lambda builder, value: value)
load_float = _scalar_load(types.float32, ir.FloatType(), lambda builder, value: value)
store_int32 = _scalar_store(types.int64, ir.IntType(32), lambda builder, value: builder.trunc(value, ir.IntType(32)))
store_byte = _scalar_store(types.int64, ir.IntType(8), lambda builder, value: builder.trunc(value, ir.IntType(8)))
store_float = _scalar_store(types.float32, ir.FloatType(), lambda builder, value: value)


@intrinsic
def multiply_add(typing, a, b, accumulator):
    """float32 accumulator + a * b, rounded once (vfmadd)."""

    def emit(builder, a, b, accumulator):
        return _call(
            builder, "llvm.fma.v16f32", FLOATS, [_cast(builder, value, FLOATS) for value in (a, b, accumulator)]
        )

    return _instruction([register, register, register], emit)


@intrinsic
def maximum_float(typing, a, b):
    """float32: a > b ? a : b (vmaxps)."""

    def emit(builder, a, b):
        a, b = _cast(builder, a, FLOATS), _cast(builder, b, FLOATS)
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    return _instruction([register, register], emit)


@intrinsic
def gather(typing, address, step, last):
    """float32 from `address`, `address + step`, ...: `last` + 1 of them, then the last one again (vgatherqps)."""

    def emit(builder, address, step, last):
        wide = ir.VectorType(_INT64, 16)
        lanes = ir.Constant(wide, list(range(16)))
        lanes = _call(builder, "llvm.umin.v16i64", wide, [lanes, _splat(builder, last, wide)])
        places = builder.add(_splat(builder, address, wide), builder.mul(lanes, _splat(builder, step, wide)))
        pointers = builder.inttoptr(places, ir.VectorType(ir.FloatType().as_pointer(), 16))
        align, all_lanes = ir.Constant(ir.IntType(32), 4), ir.Constant(ir.VectorType(ir.IntType(1), 16), [1] * 16)
        values = [pointers, align, all_lanes, ir.Constant(FLOATS, None)]
        return _call(builder, "llvm.masked.gather.v16f32.v16p0", FLOATS, values)

    return _instruction([types.int64, types.int64, types.int64], emit)


@intrinsic
def load_bytes(typing, address):
    """16 bytes into 16 doublewords (vpmovzxbd)."""

    def emit(builder, address):
        quarter = ir.VectorType(ir.IntType(8), 16)
        return builder.zext(builder.load(pointer(builder, address, quarter), align=1), DOUBLEWORDS)

    return _instruction([types.int64], emit)


@intrinsic
def nonzero(typing, value):
    """A bit for each doubleword that isn't zero (vptestmd)."""

    def emit(builder, value):
        bits = builder.icmp_unsigned("!=", value, ir.Constant(DOUBLEWORDS, None))
        return builder.zext(builder.bitcast(bits, ir.IntType(16)), _INT64)

    return _instruction([register], emit, types.int64)


@intrinsic
def splat_byte(typing, value):
    """The lowest byte of an int64 in every byte (vpbroadcastb)."""

    def emit(builder, value):
        return _splat(builder, builder.trunc(value, ir.IntType(8)), BYTES)

    return _instruction([types.int64], emit)


@intrinsic
def at_least(typing, value, least):
    """A bit for each unsigned byte that is not below its counterpart (vpcmpub)."""

    def emit(builder, value, least):
        bits = builder.icmp_unsigned(">=", _cast(builder, value, BYTES), _cast(builder, least, BYTES))
        return builder.bitcast(bits, _INT64)

    return _instruction([register, register], emit, types.int64)


@intrinsic
def choose_bytes(typing, bits, value, other):
    """The bytes of a value whose bits are set, those of another elsewhere (vpblendmb)."""

    def emit(builder, bits, value, other):
        mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), 64))
        return builder.select(mask, _cast(builder, value, BYTES), _cast(builder, other, BYTES))

    return _instruction([types.int64, register, register], emit)


@intrinsic
def count_bits(typing, value):
    """How many bits are set (popcnt)."""
    return _instruction(
        [types.int64], lambda builder, value: _call(builder, "llvm.ctpop.i64", _INT64, [value]), types.int64
    )


@intrinsic
def compress(typing, value, bits):
    """The doublewords whose bits are set, one after the other; zeros behind them (vpcompressd)."""

    def emit(builder, value, bits):
        mask = builder.bitcast(builder.trunc(bits, ir.IntType(16)), ir.VectorType(ir.IntType(1), 16))
        values = [value, ir.Constant(DOUBLEWORDS, None), mask]
        return _call(builder, "llvm.x86.avx512.mask.compress.v16i32", DOUBLEWORDS, values)

    return _instruction([register, types.int64], emit)


@intrinsic
def count_up(typing, first):
    """first, first + 1, ..., first + 15."""

    def emit(builder, first):
        start = _splat(builder, builder.trunc(first, ir.IntType(32)), DOUBLEWORDS)
        return builder.add(start, ir.Constant(DOUBLEWORDS, list(range(16))))

    return _instruction([types.int64], emit)


@intrinsic
def prefetch(typing, address):
    """Asks for a cache line (prefetcht0)."""

    def emit(builder, address):
        place = pointer(builder, address, ir.IntType(8))
        numbers = [ir.Constant(ir.IntType(32), number) for number in (0, 3, 1)]
        kind = ir.FunctionType(ir.VoidType(), [place.type, *[number.type for number in numbers]])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [place, *numbers])

    return _instruction([types.int64], emit, types.void)


def _interleave(vector: ir.Type, width: int, high: bool):
    """Elements of `width` bytes of a and b in turns: the lower (or the higher) half of each quarter of a register."""
    inside = 16 // width

    @intrinsic
    def interleave(typing, a, b):
        def emit(builder, a, b):
            pairs = [
                quarter * inside + (inside // 2 if high else 0) + i // 2 + (i % 2) * vector.count
                for quarter in range(4)
                for i in range(inside)
            ]
            order = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), pairs)
            return builder.shuffle_vector(_cast(builder, a, vector), _cast(builder, b, vector), order)

        return _instruction([register, register], emit)

    return interleave


#: vpunpcklbw, vpunpckhbw, vpunpcklwd, vpunpckhwd.
interleave_low_bytes, interleave_high_bytes = _interleave(BYTES, 1, False), _interleave(BYTES, 1, True)
interleave_low_words, interleave_high_words = _interleave(WORDS, 2, False), _interleave(WORDS, 2, True)

"""Registers of any width, and the operations on them that every instruction set has, callable from Numba.

A `Register` is a number of doublewords (its lanes) that Numba never looks into. It becomes one LLVM vector value, so a
local variable of a kernel stays in one machine register, which arrays (even of constant size) do not. Each operation is
written in plain LLVM IR and becomes one instruction on most processors; those for which instruction sets differ are in
`instruction_sets`. Accesses to memory are unaligned. Addresses are plain int64: the kernels compute them from constants
that the generator knows.
"""

from collections.abc import Callable

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic

INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


class Register(types.Type):
    """32 bits times `lanes`, as doublewords; every operation reads them as it needs them."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__(name=f"Register{32 * lanes}")


@register_default(Register)
class RegisterModel(models.PrimitiveModel):
    def __init__(self, manager, frontend_type):
        super().__init__(manager, frontend_type, ir.VectorType(INT32, frontend_type.lanes))


def lanes_of(value: ir.Value) -> int:
    """The doublewords of a vector of any elements."""
    return value.type.count * _bits(value.type.element) // 32


def _bits(element: ir.Type) -> int:
    return 32 if isinstance(element, ir.FloatType) else element.width


def as_vector(builder, value: ir.Value, element: ir.Type) -> ir.Value:
    """The same bits as elements of another type."""
    return builder.bitcast(value, ir.VectorType(element, lanes_of(value) * 32 // _bits(element)))


def as_floats(builder, value: ir.Value) -> ir.Value:
    return as_vector(builder, value, ir.FloatType())


def constant(like: ir.Value, number: int | float) -> ir.Value:
    """A vector of the type of another, all of whose elements are one number."""
    return ir.Constant(like.type, [number] * like.type.count)


def call(builder, name: str, result: ir.Type, values: list[ir.Value]) -> ir.Value:
    """Calls an LLVM intrinsic; declares it in the module on first use."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [value.type for value in values]), name
    )
    return builder.call(function, values)


def generic(builder, name: str, *values: ir.Value) -> ir.Value:
    """Calls an intrinsic that LLVM has for vectors of every width, such as llvm.smax: `name` without the type."""
    vector = values[0].type
    element = "f32" if isinstance(vector.element, ir.FloatType) else f"i{vector.element.width}"
    return call(builder, f"{name}.v{vector.count}{element}", vector, list(values))


def spread(builder, scalar: ir.Value, count: int) -> ir.Value:
    """A vector of `count` times one value."""
    vector = ir.VectorType(scalar.type, count)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(INT32, 0))
    return builder.shuffle_vector(
        single, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(INT32, count), None)
    )


def shuffle(builder, a: ir.Value, b: ir.Value, places: list[int]) -> ir.Value:
    """The elements of a, then b, at these places."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(places)), places))


def pointer(builder, address: ir.Value, pointee: ir.Type) -> ir.Value:
    """The address as a pointer, in a function to which address 0 is like any other.

    Where LLVM makes machine code, it writes sums of addresses as offsets from the null pointer. Numba has it optimise
    that form once more when another function calls this one, and what goes through null, LLVM takes for unreachable:
    whole layers would vanish.
    """
    add_attribute(builder, "null_pointer_is_valid")
    return builder.inttoptr(address, pointee.as_pointer())


def add_attribute(builder, attribute: str) -> None:
    """Give the function that is being written an attribute that LLVM knows, and llvmlite refuses."""
    set.add(builder.function.attributes, attribute)


def operation(parameters: list[types.Type], emit: Callable, returns: types.Type) -> tuple:
    """What a Numba intrinsic returns, for code that is `emit(builder, *values)`."""

    def codegen(context, builder, signature, values):
        result = emit(builder, *values)
        if isinstance(signature.return_type, Register):
            result = as_vector(builder, result, INT32)
        return context.get_dummy_value() if result is None else result

    return returns(*parameters), codegen


def unary(emit: Callable):
    """The operation on one register whose code is emit(builder, a)."""

    @intrinsic
    def on_one(typing, a):
        return operation([a], emit, a)

    return on_one


def binary(emit: Callable):
    """The operation on two registers whose code is emit(builder, a, b)."""

    @intrinsic
    def on_two(typing, a, b):
        return operation([a, b], emit, a)

    return on_two


def ternary(emit: Callable):
    """The operation on three registers whose code is emit(builder, a, b, c)."""

    @intrinsic
    def on_three(typing, a, b, c):
        return operation([a, b, c], emit, a)

    return on_three


def on_floats(emit: Callable) -> Callable:
    """`emit`, given its operands as float32."""
    return lambda builder, *values: emit(builder, *(as_floats(builder, value) for value in values))


def on_bytes(emit: Callable) -> Callable:
    """`emit`, given its operands as bytes."""
    return lambda builder, *values: emit(builder, *(as_vector(builder, value, INT8) for value in values))


# Doublewords, signed.
add = binary(lambda builder, a, b: builder.add(a, b))
maximum = binary(lambda builder, a, b: generic(builder, "llvm.smax", a, b))
minimum = binary(lambda builder, a, b: generic(builder, "llvm.smin", a, b))
#: low moves down by 8 bits and takes the lowest byte of high at its top: shift_in(high, low).
shift_in = binary(lambda builder, high, low: generic(builder, "llvm.fshr", high, low, constant(low, 8)))

# Unsigned bytes.
maximum_bytes = binary(on_bytes(lambda builder, a, b: generic(builder, "llvm.umax", a, b)))

# float32.
to_float = unary(lambda builder, a: builder.sitofp(a, ir.VectorType(ir.FloatType(), a.type.count)))
add_float = binary(on_floats(lambda builder, a, b: builder.fadd(a, b)))
#: Not fused with an addition: neither carries the flag that allows LLVM to do so.
multiply_float = binary(on_floats(lambda builder, a, b: builder.fmul(a, b)))
#: a * b + c, rounded once.
multiply_add = ternary(on_floats(lambda builder, a, b, c: generic(builder, "llvm.fma", a, b, c)))
#: a < b ? a : b.
minimum_float = binary(on_floats(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b)))
#: a > b ? a : b.
maximum_float = binary(on_floats(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b)))


def _larger_of_neighbours(builder, a, b):
    count = a.type.count
    even, odd = (shuffle(builder, a, b, list(range(first, 2 * count, 2))) for first in (0, 1))
    return builder.select(builder.fcmp_ordered(">", even, odd), even, odd)


#: float32: of twice as many values in a row, those of a and then of b, the larger one of each two neighbours.
larger_of_neighbours = binary(on_floats(_larger_of_neighbours))


def _not_negative(builder, a):
    return builder.select(builder.fcmp_ordered(">", a, constant(a, 0.0)), a, constant(a, 0.0))


#: float32: the value, 0 where it is negative.
not_negative = unary(on_floats(_not_negative))


def _interleave(element: ir.Type, high: bool):
    """Elements of a and b in turns: the lower (or the higher) half of each 16 bytes of a register."""
    inside = 16 * 8 // element.width

    def emit(builder, a, b):
        a, b = as_vector(builder, a, element), as_vector(builder, b, element)
        count = a.type.count
        first = inside // 2 if high else 0
        return shuffle(
            builder,
            a,
            b,
            [
                part * inside + first + i // 2 + (i % 2) * count
                for part in range(count // inside)
                for i in range(inside)
            ],
        )

    return binary(emit)


interleave_low_bytes, interleave_high_bytes = _interleave(INT8, False), _interleave(INT8, True)
interleave_low_words, interleave_high_words = _interleave(INT16, False), _interleave(INT16, True)


@intrinsic
def first_lanes(typing, value, count):
    """The doublewords of the first `count` lanes; zeros behind them."""

    def emit(builder, value, count):
        numbers = ir.Constant(value.type, list(range(value.type.count)))
        inside = builder.icmp_signed("<", numbers, spread(builder, builder.trunc(count, INT32), value.type.count))
        return builder.select(inside, value, ir.Constant(value.type, None))

    return operation([value, types.int64], emit, value)


@intrinsic
def store(typing, address, value):
    """A whole register."""

    def emit(builder, address, value):
        builder.store(value, pointer(builder, address, value.type), align=1)

    return operation([address, value], emit, types.void)


@intrinsic
def store_bytes(typing, address, value):
    """Doublewords, none negative, as bytes saturated at 255."""

    def emit(builder, address, value):
        low = generic(builder, "llvm.umin", value, constant(value, 255))
        quarter = ir.VectorType(INT8, value.type.count)
        builder.store(builder.trunc(low, quarter), pointer(builder, address, quarter), align=1)

    return operation([address, value], emit, types.void)


@intrinsic
def any_nonzero(typing, value):
    """Whether any bit is set."""

    def emit(builder, value):
        whole = builder.bitcast(value, ir.IntType(32 * value.type.count))
        return builder.icmp_unsigned("!=", whole, ir.Constant(whole.type, 0))

    return operation([value], emit, types.boolean)


@intrinsic
def count_at_least(typing, value, least):
    """How many unsigned bytes of a value are not below their counterparts."""

    def emit(builder, value, least):
        value, least = as_vector(builder, value, INT8), as_vector(builder, least, INT8)
        bits = builder.bitcast(builder.icmp_unsigned(">=", value, least), ir.IntType(value.type.count))
        ones = call(builder, f"llvm.ctpop.i{bits.type.width}", bits.type, [bits])
        return ones if bits.type.width == 64 else builder.zext(ones, INT64)

    return operation([value, least], emit, types.int64)


def _keep_at_least(builder, value, least, other):
    return builder.select(builder.icmp_unsigned(">=", value, least), value, other)


#: Unsigned bytes: value >= least ? value : other.
keep_at_least = ternary(on_bytes(_keep_at_least))


@intrinsic
def address_of(typing, array):
    """The address of an array's first element."""

    def codegen(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.ptrtoint(data, INT64)

    return types.int64(array), codegen


@intrinsic
def prefetch(typing, address):
    """Asks for a cache line."""

    def emit(builder, address):
        place = pointer(builder, address, INT8)
        numbers = [ir.Constant(INT32, number) for number in (0, 3, 1)]
        kind = ir.FunctionType(ir.VoidType(), [place.type, *[number.type for number in numbers]])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [place, *numbers])

    return operation([address], emit, types.void)


def _scalar_load(kind: types.Type, pointee: ir.Type, widen: Callable):
    @intrinsic
    def scalar_load(typing, address):
        def emit(builder, address):
            return widen(builder, builder.load(pointer(builder, address, pointee), align=1))

        return operation([types.int64], emit, kind)

    return scalar_load


def _scalar_store(kind: types.Type, pointee: ir.Type, narrow: Callable):
    @intrinsic
    def scalar_store(typing, address, value):
        def emit(builder, address, value):
            builder.store(narrow(builder, value), pointer(builder, address, pointee), align=1)

        return operation([types.int64, kind], emit, types.void)

    return scalar_store


load_byte = _scalar_load(types.int64, INT8, lambda builder, value: builder.zext(value, INT64))
load_int32 = _scalar_load(types.int64, INT32, lambda builder, value: builder.sext(value, INT64))
load_int64 = _scalar_load(types.int64, INT64, lambda builder, value: value)
load_float = _scalar_load(types.float32, ir.FloatType(), lambda builder, value: value)
store_byte = _scalar_store(types.int64, INT8, lambda builder, value: builder.trunc(value, INT8))
store_int32 = _scalar_store(types.int64, INT32, lambda builder, value: builder.trunc(value, INT32))
store_int64 = _scalar_store(types.int64, INT64, lambda builder, value: value)
store_float = _scalar_store(types.float32, ir.FloatType(), lambda builder, value: value)


class Creation:
    """The operations that make registers of `lanes` doublewords from memory or from numbers.

    `load(address)` a whole register; `broadcast(address)` 4 bytes into every doubleword; `broadcast_window(address)` 16
    bytes into every 16; `load_bytes(address)` bytes into doublewords; `splat(value)` an int32, `splat_byte(value)` the
    lowest byte, `splat_float(value)` a float32 everywhere; `gather(address, step, last)` float32 from `address`,
    `address + step`, ...: `last` + 1 of them, then the last one again; `count_up(first)` first, first + 1, ...
    """

    def __init__(self, lanes: int):
        register = Register(lanes)

        def from_address(emit):
            @intrinsic
            def create(typing, address):
                return operation([types.int64], emit, register)

            return create

        def from_number(kind, emit):
            @intrinsic
            def create(typing, value):
                return operation([kind], emit, register)

            return create

        def load(builder, address):
            return builder.load(pointer(builder, address, ir.VectorType(INT32, lanes)), align=1)

        def broadcast(builder, address):
            return spread(builder, builder.load(pointer(builder, address, INT32), align=1), lanes)

        def broadcast_window(builder, address):
            window = builder.load(pointer(builder, address, ir.VectorType(INT32, 4)), align=1)
            return shuffle(builder, window, window, list(range(4)) * (lanes // 4))

        def load_bytes(builder, address):
            quarter = ir.VectorType(INT8, lanes)
            values = builder.load(pointer(builder, address, quarter), align=1)
            return builder.zext(values, ir.VectorType(INT32, lanes))

        def splat(builder, value):
            return spread(builder, builder.trunc(value, INT32), lanes)

        def count_up(builder, first):
            start = splat(builder, first)
            return builder.add(start, ir.Constant(start.type, list(range(lanes))))

        self.load, self.broadcast = from_address(load), from_address(broadcast)
        self.broadcast_window, self.load_bytes = from_address(broadcast_window), from_address(load_bytes)
        self.splat, self.count_up = from_number(types.int64, splat), from_number(types.int64, count_up)
        self.splat_byte = from_number(types.int64, lambda b, value: spread(b, b.trunc(value, INT8), 4 * lanes))
        self.splat_float = from_number(types.float32, lambda b, value: spread(b, value, lanes))

        @intrinsic
        def gather(typing, address, step, last):
            def emit(builder, address, step, last):
                wide = ir.VectorType(INT64, lanes)
                numbers = ir.Constant(wide, list(range(lanes)))
                numbers = generic(builder, "llvm.umin", numbers, spread(builder, last, lanes))
                distances = builder.mul(numbers, spread(builder, step, lanes))
                places = builder.add(spread(builder, address, lanes), distances)
                pointers = builder.inttoptr(places, ir.VectorType(ir.FloatType().as_pointer(), lanes))
                floats = ir.VectorType(ir.FloatType(), lanes)
                every = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1] * lanes)
                values = [pointers, ir.Constant(INT32, 4), every, ir.Constant(floats, None)]
                return call(builder, f"llvm.masked.gather.v{lanes}f32.v{lanes}p0", floats, values)

            return operation([types.int64, types.int64, types.int64], emit, register)

        self.gather = gather


def appending(lanes: int, restrict_target: Callable) -> Callable:
    """The operation `append_active` where no instruction does it."""

    @njit
    def append_active(levels, first, places, values, count):
        restrict_target()
        for i in range(lanes):
            level = load_byte(levels + i)
            store_int32(places + 4 * count, first + i)
            store_byte(values + count, level)
            count += level != 0
        return count

    return append_active

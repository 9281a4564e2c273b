"""The operations of every instruction set in NumPy: twins of those in `dualsparse.kernels.instruction_sets`.

Generated kernels are Python. With these operations in place of the compiled ones they run on any machine, slowly, so
that kernels for instructions that are not at hand are tested, too. A twin does what the instructions do, saturation and
all, not what the kernels want. Registers are int32 arrays of as many elements as the set has lanes; addresses are those
of real memory.
"""

import ctypes
from collections.abc import Callable

import numpy as np
from numba import types

from dualsparse.kernels.instruction_sets import InstructionSet

from . import avx2, avx512_vbmi, avx512_vnni, avx_vnni, neon, neon_i8mm

_MODULES = {
    "avx512_vbmi": avx512_vbmi,
    "avx512_vnni": avx512_vnni,
    "avx_vnni": avx_vnni,
    "avx2": avx2,
    "neon_i8mm": neon_i8mm,
    "neon": neon,
}


def run_uncompiled(text: str, instruction_set: InstructionSet) -> Callable[..., int]:
    """The function `run` of a generated module, with twins in place of the operations."""
    imports, rest = text.split("\n\n\n", 1)
    assert "import *" in imports
    namespace = operations(instruction_set)
    with np.errstate(all="ignore"):
        exec(rest, namespace)
    return namespace["run"]


def memory(address: int, kind: type, count: int) -> np.ndarray:
    """What lies at an address, not copied."""
    size = count * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(int(address)), kind)


def _njit(*arguments, **options):
    if len(arguments) == 1 and callable(arguments[0]) and not options:
        return arguments[0]
    return lambda function: function


def operations(instruction_set: InstructionSet) -> dict:
    """What a generated module imports, by name."""
    lanes = instruction_set.lanes

    def integers(value: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(value).view(np.int32)

    def floats(function: Callable) -> Callable:
        return lambda *values: integers(function(*(value.view(np.float32) for value in values)).astype(np.float32))

    def interleave(kind: type, high: bool) -> Callable:
        def result(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            pairs = np.stack([a.view(kind).reshape(lanes // 4, -1), b.view(kind).reshape(lanes // 4, -1)], axis=-1)
            half = pairs.shape[1] // 2
            return integers((pairs[:, half:] if high else pairs[:, :half]).reshape(-1))

        return result

    def load(address):
        return memory(address, np.int32, lanes).copy()

    def store(address, value):
        memory(address, np.int32, lanes)[:] = value

    def store_bytes(address, value):
        memory(address, np.uint8, lanes)[:] = np.minimum(value.view(np.uint32), 255)

    def gather(address, step, last):
        places = [address + step * min(lane, last) for lane in range(lanes)]
        return integers(np.array([memory(place, np.float32, 1)[0] for place in places], np.float32))

    def append_active(levels, first, places, values, count):
        for i, level in enumerate(memory(levels, np.uint8, lanes)):
            memory(places + 4 * count, np.int32, 1)[0] = first + i
            memory(values + count, np.uint8, 1)[0] = level
            count += int(level != 0)
        return count

    def larger_of_neighbours(a, b):
        both = np.concatenate([a, b]).view(np.float32).reshape(-1, 2)
        return integers(np.where(both[:, 0] > both[:, 1], both[:, 0], both[:, 1]))

    def scalar_load(kind: type, returns: type) -> Callable:
        return lambda address: returns(memory(address, kind, 1)[0])

    def scalar_store(kind: type) -> Callable:
        return lambda address, value: memory(address, kind, 1).__setitem__(0, value)

    shared = {
        "np": np,
        "types": types,
        "njit": _njit,
        "restrict_target": lambda: None,
        "prefetch": lambda address: None,
        "next_job": lambda slot: False,
        "finish": lambda slot, status: None,
        "address_of": lambda array: array.ctypes.data,
        "load": load,
        "store": store,
        "store_bytes": store_bytes,
        "broadcast": lambda address: np.repeat(memory(address, np.int32, 1), lanes),
        "load_bytes": lambda address: memory(address, np.uint8, lanes).astype(np.int32),
        "splat": lambda value: np.full(lanes, value, np.int64).astype(np.int32),
        "splat_byte": lambda value: integers(np.full(4 * lanes, value, np.int64).astype(np.uint8)),
        "splat_float": lambda value: integers(np.full(lanes, value, np.float32)),
        "gather": gather,
        "append_active": append_active,
        "add": lambda a, b: a + b,
        "maximum": np.maximum,
        "minimum": np.minimum,
        "shift_in": lambda high, low: (low.view(np.uint32) >> 8 | high.view(np.uint32) << 24).view(np.int32),
        "maximum_bytes": lambda a, b: integers(np.maximum(a.view(np.uint8), b.view(np.uint8))),
        "to_float": lambda a: integers(a.astype(np.float32)),
        "add_float": floats(np.add),
        "multiply_float": floats(np.multiply),
        # The product of two float32 is exact in float64; the sum is rounded twice, which tolerances allow for.
        "multiply_add": floats(lambda a, b, c: a.astype(np.float64) * b + c),
        "minimum_float": floats(lambda a, b: np.where(a < b, a, b)),
        "maximum_float": floats(lambda a, b: np.where(a > b, a, b)),
        "not_negative": floats(lambda a: np.where(a > 0, a, np.float32(0))),
        "first_lanes": lambda value, count: np.where(np.arange(lanes) < count, value, 0).astype(np.int32),
        "larger_of_neighbours": larger_of_neighbours,
        "interleave_low_bytes": interleave(np.uint8, False),
        "interleave_high_bytes": interleave(np.uint8, True),
        "interleave_low_words": interleave(np.uint16, False),
        "interleave_high_words": interleave(np.uint16, True),
        "any_nonzero": lambda value: bool(value.any()),
        "count_at_least": lambda value, least: int((value.view(np.uint8) >= least.view(np.uint8)).sum()),
        "keep_at_least": lambda value, least, other: integers(
            np.where(value.view(np.uint8) >= least.view(np.uint8), value.view(np.uint8), other.view(np.uint8))
        ),
        "load_byte": scalar_load(np.uint8, int),
        "load_int32": scalar_load(np.int32, int),
        "load_int64": scalar_load(np.int64, int),
        "load_float": scalar_load(np.float32, np.float32),
        "store_byte": scalar_store(np.uint8),
        "store_int32": scalar_store(np.int32),
        "store_int64": scalar_store(np.int64),
        "store_float": scalar_store(np.float32),
    }
    module = _MODULES[instruction_set.name]
    own = {name: getattr(module, name) for name in ("pick", "dot", "dot_exact", "pack", "to_int")}
    wide_window = instruction_set.window > 16
    own["load_window"] = load if wide_window else lambda address: np.tile(memory(address, np.int32, 4), lanes // 4)
    return shared | own

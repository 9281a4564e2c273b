"""How threads hand samples to each other inside compiled code, where they need no lock of Python's.

Each worker has a slot of memory: its state, then the addresses of its input and output, the number of samples, and what
the program returned for them; on which core it took them, and on which core the caller gave them.
"""

import platform
import sys

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dualsparse.caching import cached_njit

from .registers import address_of, call, load_int64, pointer, store_int64

#: Bytes from slot to slot: a cache line, and the next one, which processors fetch with it.
SLOT_BYTES = 128
ASLEEP, WAITING, POSTED = 0, 1, 2
_ARM = platform.machine().lower() in ("aarch64", "arm64")
#: Of the time stamp counter, about 0.1 ms: longer than what passes between the calls of a loop, too short to matter.
#: Arm's goes at 1 GHz in newer designs, at 24 to 100 MHz in older ones.
PATIENCE = 10_000 if _ARM else 300_000

_INT64, _NOTHING = ir.IntType(64), ir.VoidType()


def _word(builder, address) -> ir.Value:
    return pointer(builder, address, _INT64)


@intrinsic
def load_atomic(typing, address):
    """int64, in order with all other accesses to memory (mov)."""

    def codegen(context, builder, signature, values):
        return builder.load_atomic(_word(builder, values[0]), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def exchange(typing, address, value):
    """Writes an int64 and returns what was there, in one step (xchg)."""

    def codegen(context, builder, signature, values):
        return builder.atomic_rmw("xchg", _word(builder, values[0]), values[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def replace_if(typing, address, expected, value):
    """Writes an int64 if `expected` is there, in one step (cmpxchg); whether it was."""

    def codegen(context, builder, signature, values):
        address, expected, value = values
        pair = builder.cmpxchg(_word(builder, address), expected, value, "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def pause(typing):
    """Tells the core that it waits in a loop."""

    def codegen(context, builder, signature, values):
        if _ARM:
            call(builder, "llvm.aarch64.hint", _NOTHING, [ir.Constant(ir.IntType(32), 1)])
        else:
            call(builder, "llvm.x86.sse2.pause", _NOTHING, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def time_stamp(typing):
    """The time stamp counter, which goes at the processor's nominal clock (rdtsc), or Arm's counter (cntvct_el0)."""

    def codegen(context, builder, signature, values):
        if _ARM:
            counter = ir.InlineAsm(ir.FunctionType(_INT64, []), "mrs $0, cntvct_el0", "=r", side_effect=True)
            return builder.call(counter, [])
        return call(builder, "llvm.readcyclecounter", _INT64, [])

    return types.int64(), codegen


@intrinsic
def core(typing):
    """The number of the core that this thread is on (rdtscp, whose second result Linux sets so), as far as it is known.

    Only Linux has teams of threads that want it (`workers.Team`).
    """

    def codegen(context, builder, signature, values):
        if _ARM and sys.platform != "linux":
            return ir.Constant(_INT64, 0)
        if _ARM:
            number = call(builder, "sched_getcpu", ir.IntType(32), [])
            return builder.sext(number, _INT64)
        both = call(builder, "llvm.x86.rdtscp", ir.LiteralStructType([_INT64, ir.IntType(32)]), [])
        number = builder.and_(builder.extract_value(both, 1), ir.Constant(ir.IntType(32), 0xFFF))
        return builder.zext(number, _INT64)

    return types.int64(), codegen


@intrinsic
def sched_yield(typing):
    """Lets another thread have this core, if one waits for it (Linux)."""

    def codegen(context, builder, signature, values):
        return call(builder, "sched_yield", ir.IntType(32), [])

    return types.int32(), codegen


@njit
def _patience(other_core):
    """How long to wait awake for a thread: not on the core that it needs itself."""
    return 0 if load_int64(other_core) == core() else PATIENCE


@njit
def next_job(slot):
    """A worker waits for samples: true when they are there, false after so long that its thread had better sleep."""
    replace_if(slot, ASLEEP, WAITING)
    until = time_stamp() + _patience(slot + 48)
    while load_atomic(slot) != POSTED:
        pause()
        if time_stamp() > until and replace_if(slot, WAITING, ASLEEP):
            return False
    store_int64(slot + 40, core())
    return True


@njit
def finish(slot, status):
    """A worker is done with its samples."""
    store_int64(slot + 32, status)
    exchange(slot, WAITING)


@cached_njit(nogil=True)
def post(slot, x, out, start, stop):
    """Give the samples from `start` to `stop` to a worker.

    Returns:
        Whether its thread has to be woken; the core that it was last seen on; the core of the caller.
    """
    last_seen, here = load_int64(slot + 40), core()
    store_int64(slot + 8, address_of(x) + start * x.strides[0])
    store_int64(slot + 16, address_of(out) + start * out.strides[0])
    store_int64(slot + 24, stop - start)
    store_int64(slot + 48, here)
    return exchange(slot, POSTED) == ASLEEP, last_seen, here


@cached_njit(nogil=True)
def wait(slot):
    """Wait until a worker is done, and return what the program returned for its samples."""
    until = time_stamp() + _patience(slot + 40)
    while load_atomic(slot) == POSTED:
        if time_stamp() < until:
            pause()
        else:
            # The worker may be waiting for this core.
            sched_yield()
    return load_int64(slot + 32)

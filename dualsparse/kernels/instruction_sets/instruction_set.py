"""What the generator has to know about an instruction set, and what Numba compiles for."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from dualsparse.kernels.registers import add_attribute, operation


def nothing_left_out(weights: np.ndarray) -> np.ndarray:
    """For a `dot` that adds what it says: 0 per output of weights[outputs, ...]."""
    return np.zeros(len(weights), np.int64)


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set: its size, and what its operations cost.

    The operations themselves have the same names in every set's module; the kernels are written in these:

    - what `registers` has: arithmetic, `store`, and (as `Creation`) `load`, `broadcast`, `splat`, ...;
    - `load_window(place)`, `pick(index, window)`: each byte of an index picks one of the window's `window` bytes;
    - `dot(sums, activations, weights)`: sums, int32, plus four products of an unsigned with a signed byte each, less
      what `left_out` says of the weights, which is therefore added where sums begin;
    - `dot_exact`: the same with nothing left out, slower on some, for weights that are chosen while it runs;
    - `pack(a, b, c, d)`: int32 saturated to unsigned bytes: byte 16 q + 4 v + i is doubleword 4 q + i of register v;
    - `to_int(value)`: float32 to int32, to nearest, half to even;
    - `append_active(levels, first, places, values, count)`: of `lanes` bytes from the address `levels`, appends those
      that aren't zero to the bytes at `values`, and their numbers from `first` on to the int32 at `places`; returns the
      new count. It may write whole registers;
    - `restrict_target()`: has LLVM compile the function that calls it without instructions beyond this set.

    Attributes:
        title: its usual name, for people.
        lanes: int32 in a register.
        window: bytes that `pick` chooses from, 16 or 64.
        accumulators: sums that a tile may keep in registers, beside weights, activations and what pooling needs.
        needs: LLVM's names of the features that it takes.
        beyond: how the names of the features begin that it must not use.
        pick_cycles, dot_cycles, load_cycles: of one register, if many are under way, to choose the cheaper kernel.
        left_out: of weights int [outputs, ...] what `dot` leaves out of the sums, int64 [outputs].
    """

    name: str
    title: str
    lanes: int
    window: int
    accumulators: int
    needs: frozenset[str]
    beyond: tuple[str, ...]
    pick_cycles: float
    dot_cycles: float
    load_cycles: float = 0.5
    left_out: Callable[[np.ndarray], np.ndarray] = nothing_left_out

    @property
    def multiply_add_cycles(self) -> float:
        """Of one float32 register whose activations come from memory: most processors load 64 bytes a cycle."""
        return max(0.5, self.register / 64)

    @property
    def register(self) -> int:
        """Bytes of a register."""
        return 4 * self.lanes

    @property
    def dot_is_exact(self) -> bool:
        return self.left_out is nothing_left_out

    def missing(self) -> frozenset[str]:
        """The features that Numba doesn't compile for, and that it would take."""
        return self.needs - target_features()


def target_features() -> frozenset[str]:
    """What Numba compiles for: its own settings (NUMBA_CPU_FEATURES, NUMBA_ENABLE_AVX, ...), by default this CPU."""
    return frozenset(name[1:] for name in _target_features().split(",") if name.startswith("+"))


@functools.cache
def _target_features() -> str:
    # Numba has no public name for what it settled on.
    return cpu_target.target_context.codegen()._tm_features


def restriction(instruction_set: InstructionSet):
    """The operation `restrict_target` of a set."""

    @intrinsic
    def restrict_target(typing):
        def emit(builder):
            beyond = [name for name in sorted(target_features()) if name.startswith(instruction_set.beyond)]
            if beyond:
                features = ",".join([_target_features(), *(f"-{name}" for name in beyond)])
                add_attribute(builder, f'"target-features"="{features}"')

        return operation([], emit, types.void)

    return restrict_target

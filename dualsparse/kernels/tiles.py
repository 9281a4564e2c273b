"""Which tile a convolution's kernel keeps in registers."""

from collections.abc import Callable
from itertools import product

from .compilation import Unsupported
from .instruction_sets import InstructionSet
from .integer_kernels import Tile
from .weight_layout import CHANNELS, round_up


def entry_cycles(instruction_set: InstructionSet, pick: bool, positions: int, groups: int) -> float:
    """What an entry takes at the positions of a tile: arithmetic or loads, whichever is more; an estimate."""
    one = instruction_set.dot_cycles + (instruction_set.pick_cycles if pick else 0)
    # Where a product isn't a single instruction, the weights are prepared first.
    arithmetic = groups * (positions * one + (0 if instruction_set.dot_is_exact else 0.5))
    loads = positions + groups * (2 if pick else 1) + 1
    return max(arithmetic, loads * instruction_set.load_cycles)


def best_tile(
    instruction_set: InstructionSet,
    cells: tuple[int, int],
    pool: tuple[int, int],
    outputs: int,
    entries: Callable[[int], float],
    *,
    pick: bool,
    one_column: bool,
    written_out: bool = False,
) -> tuple[Tile, float]:
    """The tile of least estimated cycles, and these.

    Args:
        cells: rows and columns of the pooled output.
        entries: how many entries all blocks together take, if a block is so many groups.
        one_column: whether each column is computed or left out by itself.
        written_out: whether entries are written out one by one, with no loop over them.

    Raises:
        Unsupported: not even one cell fits the registers.
    """
    lanes = instruction_set.lanes
    best, least = None, None
    # An entry to pick is of one group: others would pick elsewhere.
    for groups in (1,) if pick else range(min(4, -(-outputs // lanes)), 0, -1):
        blocks, passes_allowed = -(-outputs // (groups * lanes)), {1, pool[1]}
        # What is written for a position may not reach over its channels in the next layer's input.
        if blocks * groups * lanes > round_up(outputs, CHANNELS):
            continue
        for passes, rows, columns in product(
            sorted(passes_allowed), range(1, cells[0] + 1), range(1, 2 if one_column else cells[1] + 1)
        ):
            positions = rows * columns * pool[0] * pool[1] // passes
            # With passes, the maxima so far wait beside the sums, in memory if need be.
            if positions * groups > instruction_set.accumulators:
                continue
            tiles = -(-cells[0] // rows) * -(-cells[1] // columns)
            finish = groups * (positions * passes * 0.5 + rows * columns * (2.5 if groups == 4 else 3)) + 4 * passes
            finish += groups * rows * columns * 2 * passes if passes > 1 else 0
            one = entry_cycles(instruction_set, pick, positions, groups) + (0 if written_out else 1)
            multiply = passes * entries(groups) * one
            cycles = tiles * (multiply + blocks * finish)
            if least is None or cycles <= least:
                best, least = Tile((rows, columns), groups, passes), cycles
    if best is None:
        raise Unsupported("The pool is too large for a tile.")
    return best, least

"""Weights in the order in which the kernels read them.

Every kernel sees a layer as `weights[outputs, taps, channels]`: a tap is a place of the input, `channels` bytes behind
one address. As many outputs as a register has lanes are a group; the groups that a kernel computes at the same time are
a block.

An entry is what one step of a kernel's inner loop reads: an offset to the activations, and for each group of a block

- of kind pick: a register of indices that pick four channels of a window for each output, and their weights; where
  outputs share their channels in fours, one register of indices is enough for four groups (all indices come first, then
  all weights);
- of kind quad: the weights of four neighbouring bytes of activations, which all outputs share.

An entry that would be zero for all outputs of a block is left out, so that a window or a quad that none of them uses
costs nothing.
"""

from dataclasses import dataclass

import numpy as np

from .instruction_sets import InstructionSet

#: Bytes that processors fetch together; buffers and pieces begin at multiples of it.
CACHE_LINE = 64
#: The channels of a position are filled up to a multiple of it.
CHANNELS = 64
#: Outputs in a row that may share the channels that they read.
SHARING = 4


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Kind:
    """The kind of a layer's entries."""

    pick: bool
    shared: bool = False  # outputs share their channels in fours
    register: int = 64  # bytes

    @property
    def group_bytes(self) -> int:
        """The bytes of an entry for each group of a block."""
        indices = 0 if not self.pick else self.register // SHARING if self.shared else self.register
        return indices + self.register


@dataclass(frozen=True)
class Entries:
    """The entries of a layer, sorted by block, then by the column of the input that they read.

    Attributes:
        starts: int32 [blocks, columns + 1]; entries starts[b, c] to starts[b, c + 1] read column c for block b.
        offsets: int32 [entries], bytes from the place that a tile reads.
        data: uint8 [entries, groups * bytes of a group].
    """

    starts: np.ndarray
    offsets: np.ndarray
    data: np.ndarray


def output_order(outputs: int, groups: int, lanes: int, *, packed: bool, shared: bool = False) -> np.ndarray:
    """The output of each lane, int [blocks, groups, lanes]; `outputs` and more where there is none.

    With `packed`, each four groups are interleaved as the operation `pack` needs them. With `shared`, each four outputs
    in a row are in the same lane of four groups instead.
    """
    blocks = -(-outputs // (groups * lanes))
    order = np.arange(blocks * groups * lanes)
    if shared:
        order = order.reshape(-1, lanes, SHARING).swapaxes(1, 2)
    elif packed:
        order = order.reshape(-1, lanes // 4, 4, 4).swapaxes(1, 2)
    return order.reshape(blocks, groups, lanes)


def in_lanes(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """values[outputs, ...] as [blocks, groups, lanes, ...]; zeros where there is no output."""
    padded = np.zeros((order.size, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded[order]


def _windows(weights: np.ndarray, window: int) -> np.ndarray:
    """The weights by windows of channels, [outputs, taps, windows, window]."""
    return weights.reshape(*weights.shape[:2], -1, window)


def _needed(weights: np.ndarray, window: int, shared: bool) -> np.ndarray:
    """The channels that each output picks, bool as `_windows`; with `shared`, those that any of four in a row needs."""
    needed = _windows(weights, window) != 0
    if shared:
        padded = np.pad(needed, ((0, -len(needed) % SHARING), (0, 0), (0, 0), (0, 0)))
        sets = padded.reshape(-1, SHARING, *needed.shape[1:]).any(axis=1)
        needed = np.repeat(sets, SHARING, axis=0)[: len(needed)]
    return needed


def _slots(weights: np.ndarray, window: int, shared: bool) -> tuple[np.ndarray, np.ndarray]:
    """Indices and values of the picked channels of each window, [outputs, taps, windows, slots, 4]."""
    windows, needed = _windows(weights, window), _needed(weights, window, shared)
    slots = max(1, -(-int(needed.sum(axis=-1).max(initial=0)) // 4))
    channel = np.argsort(~needed, axis=-1, kind="stable")[..., : 4 * slots]
    values = np.take_along_axis(windows, channel, axis=-1)
    shape = (*windows.shape[:3], slots, 4)
    return channel.astype(np.uint8).reshape(shape), values.reshape(shape)


def pick_entries(weights: np.ndarray, order: np.ndarray, window: int, shared: bool = False) -> int:
    """How many entries of kind pick a layer takes, all blocks together."""
    most = in_lanes(_needed(weights, window, shared).sum(axis=-1), order).max(axis=(1, 2))
    return int((-(-most // 4)).sum())


def quad_entries(weights: np.ndarray, order: np.ndarray) -> int:
    """How many entries of kind quad a layer takes, all blocks together."""
    outputs, taps, channels = weights.shape
    used = (weights.reshape(outputs, taps, channels // 4, 4) != 0).any(axis=-1)
    return int(in_lanes(used, order).any(axis=(1, 2)).sum())


def arrange(
    weights: np.ndarray,
    tap_offsets: np.ndarray,
    tap_columns: np.ndarray,
    order: np.ndarray,
    kind: Kind,
    instruction_set: InstructionSet,
    unroll: int = 1,
) -> Entries:
    """The entries of a layer.

    Args:
        weights: int8 [outputs, taps, channels], channels a multiple of the window (pick) or 4 (quad).
        tap_offsets: int [taps], bytes.
        tap_columns: int [taps], the column that a tap belongs to, from 0.
        order: from `output_order`, of outputs that share their channels if the kind says so.
        unroll: the number of entries of each block and column is padded to a multiple of it by entries of zeros.
    """
    outputs, taps, channels = weights.shape
    blocks, groups, lanes_of_group = order.shape
    if kind.pick:
        window = instruction_set.window
        index, values = (in_lanes(array, order) for array in _slots(weights, window, kind.shared))
        parts = values.shape[4] * values.shape[5]
        lanes = np.stack([index.view(np.int8), values], axis=3)  # [blocks, groups, lanes, index or weight, taps, ...]
        part_offsets = np.repeat(np.arange(channels // window) * window, values.shape[5])
    else:
        values = in_lanes(weights.reshape(outputs, taps, channels // 4, 1, 4), order)
        parts = values.shape[4]
        lanes = values[:, :, :, None]
        part_offsets = np.arange(parts) * 4
    used = (values != 0).any(axis=(1, 2, 6)).reshape(blocks, taps, parts)
    lanes = lanes.reshape(blocks, groups, lanes_of_group, -1, taps, parts, 4)
    rows = lanes.transpose(0, 4, 5, 1, 3, 2, 6)  # [blocks, taps, parts, groups, index and weight, lanes, 4]

    columns = int(np.max(tap_columns)) + 1
    starts = np.zeros((blocks, columns + 1), np.int32)
    offsets, data = [], []
    count = 0
    for block in range(blocks):
        for column in range(columns):
            starts[block, column] = count
            in_column = used[block] & (np.asarray(tap_columns) == column)[:, None]
            tap, part = np.nonzero(in_column)
            padding = -len(tap) % unroll
            offsets.append(np.pad(np.asarray(tap_offsets)[tap] + part_offsets[part], (0, padding)))
            chosen = rows[block, tap, part]  # [entries, groups, index and weight, lanes, 4]
            if kind.shared:
                picks, chosen = chosen[:, ::SHARING, 0], chosen[:, :, 1]
                chosen = np.concatenate([picks.reshape(len(tap), -1), chosen.reshape(len(tap), -1)], axis=1)
            data.append(np.pad(chosen.reshape(len(tap), groups * kind.group_bytes), ((0, padding), (0, 0))))
            count += len(tap) + padding
        starts[block, columns] = count
    data = np.concatenate(data).view(np.uint8)
    return Entries(starts, np.concatenate(offsets).astype(np.int32), data)


@dataclass(frozen=True)
class TapQuad:
    """Four taps of a one-channel kernel, neighbours in a row or in a column; `vertical` in a column."""

    row: int
    column: int
    vertical: bool

    def taps(self) -> list[tuple[int, int]]:
        return [(self.row + i, self.column) if self.vertical else (self.row, self.column + i) for i in range(4)]


def cover(support: np.ndarray, vertical: bool, right_to_left: bool, upwards: bool) -> list[TapQuad]:
    """Few quads that hold all the taps where `support` [rows, columns] is true: the one that adds most, repeatedly.

    A quad in a row may reach beyond the kernel (its weights are zero there); a vertical one may not, because the rows
    below the input don't exist. Among equals the first in the direction given is taken, which decides what tap of 5x5
    is left alone in the end.
    """
    rows, columns = support.shape
    across, down = range(columns)[:: -1 if right_to_left else 1], range(rows)[:: -1 if upwards else 1]
    choices = [TapQuad(row, column, False) for row in down for column in across]
    if vertical:
        choices += [TapQuad(row, column, True) for row in down for column in across if row + 3 < rows]
    left = {(int(row), int(column)) for row, column in np.argwhere(support)}
    chosen = []
    while left:
        best = max(choices, key=lambda quad: len(left.intersection(quad.taps())))
        chosen.append(best)
        left.difference_update(best.taps())
    return chosen


def quad_weights(kernel: np.ndarray, chosen: list[TapQuad]) -> np.ndarray:
    """The weights of `kernel` [outputs, rows, columns] by quad, [quads, outputs, 4]; each is in one quad only."""
    left = np.pad(kernel, ((0, 0), (0, 3), (0, 3)))
    weights = np.zeros((len(chosen), len(kernel), 4), kernel.dtype)
    for number, quad in enumerate(chosen):
        for part, (row, column) in enumerate(quad.taps()):
            weights[number, :, part] = left[:, row, column]
            left[:, row, column] = 0
    return weights


def ranking(used: np.ndarray) -> np.ndarray:
    """An order of outputs in which those that use the same quads are neighbours, from `used` [quads, outputs].

    The quad that fewest outputs use decides first, so that it is skipped for most groups.
    """
    if not len(used):
        return np.arange(used.shape[1])
    by_rarity = np.argsort(used.sum(axis=1), kind="stable")
    return np.lexsort(used[by_rarity[::-1]])

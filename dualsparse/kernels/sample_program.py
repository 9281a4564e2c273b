"""Programs that take one sample after the other through integer layers: buffers, kernels, lists of columns.

Nothing depends on the size of a batch, except that a linear layer reads its weights once for several samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from dualsparse.layers import ColumnGate, InputQuantization, IntegerLayer

from . import integer_kernels
from .compilation import CompiledProgram, Constants, Operations, Unsupported, check_layers
from .instruction_sets import InstructionSet
from .integer_kernels import Tile
from .tiles import best_tile
from .weight_layout import (
    CACHE_LINE,
    CHANNELS,
    SHARING,
    Kind,
    TapQuad,
    arrange,
    cover,
    in_lanes,
    output_order,
    pick_entries,
    quad_entries,
    quad_weights,
    ranking,
    round_up,
)

#: Samples whose activations wait together for a linear layer, so that its weights are fetched once for all of them.
CHUNK = 16
#: The smallest first-level cache of a CPU with these instructions, less what else is in it.
FIRST_LEVEL_BYTES = 30_000
#: Bytes per cycle from the second-level cache, and from the third for weights that don't fit the second beside others.
SECOND_LEVEL_SPEED, THIRD_LEVEL_SPEED = 40, 12
SECOND_LEVEL_BYTES = 768 * 1024
#: The outputs of a convolution of one channel, whose kernel is written out for each group of them.
MOST_TAP_OUTPUTS = 64


@dataclass(frozen=True)
class _Buffer:
    """The 8-bit activations between two layers: rows of positions of channels, with the reader's padding around."""

    place: int  # in the workspace
    height: int
    width: int
    channels: int  # bytes per position
    padding: tuple[int, int, int, int]  # top, left, bottom, right
    zero_point: int
    samples: int

    @property
    def row(self) -> int:
        return (self.width + self.padding[1] + self.padding[3]) * self.channels

    @property
    def sample(self) -> int:
        rows = self.height + self.padding[0] + self.padding[2]
        # A quad may reach over the end.
        return round_up(rows * self.row + 4, CACHE_LINE)

    @property
    def first(self) -> int:
        """Distance of the first position that isn't padding."""
        return self.padding[0] * self.row + self.padding[1] * self.channels

    @property
    def bytes(self) -> int:
        return self.samples * self.sample


class SampleBuilder:
    """Collects the kernels' sources, the constants and the workspace of a program, layer by layer."""

    def __init__(
        self,
        layers: Sequence[IntegerLayer],
        quantization: InputQuantization,
        gate: ColumnGate | None,
        batch_size: int,
        instruction_set: InstructionSet,
        sort_outputs: bool = True,
    ):
        """Plan a program.

        Args:
            sort_outputs: whether outputs of a one-channel convolution that use the same taps become neighbours. Where
                windows are small, the layer behind it may lose more than is gained: its channels leave their windows.
        """
        self.layers = layers
        self._sort_outputs = sort_outputs
        self.instruction_set = instruction_set
        self.gate = gate
        self._batch_size = batch_size
        self.constants = Constants()
        self.kernels: list[str] = []
        self.operations: list[Operations] = []
        self.cycles: list[float] = []  # estimated, per layer and sample
        self.buffers: list[_Buffer] = []
        self._functions: list[str] = []
        self._calls: list[list[str]] = []
        self._size = 0
        # By layer: the channel at each place of its input buffer, where that isn't the channel of the same number.
        self._channel_orders: dict[int, np.ndarray] = {}
        check_layers(layers, quantization)
        if gate is not None and any(layer.winners is not None for layer in layers):
            raise Unsupported("Columns that a gate leaves out hold what an earlier sample left there.")
        if layers[-1].kind != "linear":
            raise Unsupported("The last layer is a convolution.")
        self._first_linear = next(i for i, layer in enumerate(layers) if layer.kind == "linear")
        self._plan_buffers()
        self._vertical = self._reserve(4 * self.buffers[0].sample)
        self._sums = self._reserve(4 * round_up(self.buffers[0].width, 16))
        self._energies = self._reserve(4 * 64)
        self._all_columns = self.constants.add(np.array([1, 0], np.int32))
        self._lists: dict[int, tuple[int, int]] = {}
        if gate is not None:
            self._plan_gate(gate)
        for index in range(len(layers)):
            if layers[index].kind == "conv":
                self._convolution(index)
            else:
                self._linear(index)
            if layers[index].winners is not None:
                self._winners(index)
        self._input(quantization)

    def _reserve(self, size: int) -> int:
        place = self._size
        self._size += round_up(size, CACHE_LINE)
        return place

    def _plan_buffers(self) -> None:
        """The input buffer of each layer, with as many channels as the layer before writes."""
        for index, layer in enumerate(self.layers):
            channels, height, width = (*layer.input_shape, 1, 1)[:3]
            if index:
                previous = self.layers[index - 1]
                channels = round_up(channels, 2 * CHANNELS if previous.kind == "linear" else CHANNELS)
            elif channels > 1:
                channels = round_up(channels, CHANNELS if channels > 16 else 4)
            elif layer.kind == "linear":
                # A single channel: positions in a row are neighbours in memory, as channels are.
                channels, height, width = round_up(height * width, 4), 1, 1
            samples = CHUNK if index >= self._first_linear else 1
            padding = layer.padding if layer.kind == "conv" else (0, 0, 0, 0)
            buffer = _Buffer(self._size, height, width, channels, padding, layer.input_zero_point, samples)
            self._reserve(buffer.bytes)
            self.buffers.append(buffer)

    def workspace(self) -> np.ndarray:
        """The initial content of a workspace: the padding, which nobody overwrites, is zero points."""
        workspace = np.zeros(self._size, np.uint8)
        for buffer in self.buffers:
            workspace[buffer.place : buffer.place + buffer.bytes] = buffer.zero_point
        return workspace

    # Gating

    def _plan_gate(self, gate: ColumnGate) -> None:
        """Places for the lists of columns, and the masks of the columns that each kept column needs."""
        self._kept_step = round_up(4 * (gate.columns + 1), CACHE_LINE)
        self._kept = self._reserve(CHUNK * self._kept_step)
        layers = self.layers
        if gate.columns > 63:
            raise Unsupported("A mask of columns has 63 bits.")
        if any(layer.kind != "conv" for layer in layers[: gate.layer_index + 1]) or layers[0].input_shape[0] != 1:
            raise Unsupported("A gate is for convolutions, the first of one channel.")
        needed = [{column} for column in range(gate.columns)]
        masks = []
        for index in range(gate.layer_index, 0, -1):
            layer = layers[index]
            pool, kernel = (layer.pool or (1, 1))[1], layer.weight.shape[3]
            width = layers[index - 1].output_shape[2]
            if width > 63:
                raise Unsupported("A mask of columns has 63 bits.")
            needed = [
                {
                    place
                    for column, inner, tap in product(columns, range(pool), range(kernel))
                    if 0
                    <= (place := (column * pool + inner) * layer.stride[1] + tap * layer.dilation[1] - layer.padding[1])
                    < width
                }
                for columns in needed
            ]
            masks.append([sum(1 << place for place in columns) for columns in needed])
            self._lists[index - 1] = (self._reserve(4 * (width + 1)), width)
        piece = self.constants.add(np.array(masks, np.int64).reshape(-1))
        shape = integer_kernels.Gate(
            kernel_width=gate.kernel_width,
            stride_width=gate.stride_width,
            keep=gate.keep,
            columns=gate.columns,
            pair=gate.pair,
            masks_piece=piece,
            lists=tuple(self._lists.values()),
        )
        self._functions.append(integer_kernels.column_gate(shape))

    def _skips(self, index: int) -> bool:
        """Whether a layer reads only the kept columns; a zero point of 0 makes the others contribute nothing."""
        if self.gate is None or index != self.gate.layer_index + 1:
            return False
        return self.layers[index].kind == "linear" and self.layers[index].input_zero_point == 0

    def _columns(self, index: int, tile_width: int) -> str:
        """The address of a convolution's list of columns of tiles."""
        if self.gate is not None and index == self.gate.layer_index:
            return f"workspace + {self._kept} + s * {self._kept_step}"
        if index in self._lists:
            return f"workspace + {self._lists[index][0]}"
        width = self.layers[index].output_shape[2]
        tiles = [min(x, width - tile_width) for x in range(0, width, tile_width)]
        return f"piece(constants, {self.constants.add(np.array([len(tiles), *tiles], np.int32))})"

    # Layers

    def _weights(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A layer's weights as [outputs, taps, channels], the taps' distances in its buffer, and their columns."""
        layer, buffer = self.layers[index], self.buffers[index]
        if layer.kind == "conv":
            outputs, channels, height, width = layer.weight.shape
            weights, down, right = layer.weight, layer.dilation[0] * buffer.row, layer.dilation[1] * buffer.channels
        else:
            outputs, down, right = len(layer.weight), buffer.row, buffer.channels
            height, width = buffer.height, buffer.width
            weights = layer.weight.reshape(outputs, -1, height, width)
            channels = weights.shape[1]
        taps = weights.transpose(0, 2, 3, 1).reshape(outputs, height * width, channels)
        taps = np.pad(taps, ((0, 0), (0, 0), (0, buffer.channels - channels)))
        if index in self._channel_orders:
            taps = taps[:, :, self._channel_orders[index]]
        rows, columns = np.divmod(np.arange(height * width), width)
        return taps, rows * down + columns * right, columns

    def _reorder_channels(self, index: int, order: np.ndarray, places: np.ndarray) -> None:
        """Note that a layer's channels come as the one before writes them: output `order` of a lane to its place."""
        written = order.reshape(-1)[np.argsort(places.reshape(-1))]
        others = np.arange(order.size, self.buffers[index].channels)
        self._channel_orders[index] = np.concatenate([written, others])

    def _add_layer(self, index: int, order: np.ndarray, start: np.ndarray, entries: tuple[np.ndarray, ...]) -> int:
        """Adds a layer's pieces in the order of `integer_kernels.PIECES`; returns the first.

        Args:
            start: what sums begin with, int32, in lanes.
        """
        layer = self.layers[index]
        first = self.constants.add(start)
        for values in (layer.multiplier, layer.offset):
            self.constants.add(in_lanes(values, order))
        for values in entries:
            self.constants.add(values)
        return first

    def _zero_point_sums(self, index: int) -> np.ndarray:
        """What a zero point adds to the sums of products, to be taken away: int64 [outputs]."""
        layer = self.layers[index]
        return -layer.input_zero_point * layer.weight.astype(np.int64).reshape(len(layer.weight), -1).sum(axis=1)

    def _start(self, index: int, order: np.ndarray) -> np.ndarray:
        """What the sums of a layer begin with, int32, in lanes."""
        start = self._zero_point_sums(index) + self.instruction_set.left_out(self.layers[index].weight)
        return in_lanes(start.astype(np.int32), order)

    def _convolution(self, index: int) -> None:
        layer, buffer, target = self.layers[index], self.buffers[index], self.buffers[index + 1]
        isa, outputs, pool = self.instruction_set, len(layer.weight), layer.pool or (1, 1)
        cells = layer.output_shape[1:]
        by_taps = buffer.channels == 1
        if by_taps and (outputs > MOST_TAP_OUTPUTS or layer.dilation != (1, 1)):
            raise Unsupported("A convolution of one channel is for at most 64 outputs, without dilation.")
        gated = self.gate is not None and index <= self.gate.layer_index
        weights, tap_offsets, _ = self._weights(index)

        def order_of(groups: int) -> np.ndarray:
            return output_order(outputs, groups, isa.lanes, packed=groups == 4)

        def tile_of(pick: bool, entries) -> tuple[Tile, float]:
            written_out = by_taps and isa.dot_is_exact
            return best_tile(isa, cells, pool, outputs, entries, pick=pick, one_column=gated, written_out=written_out)

        if by_taps:
            quads = len(cover((layer.weight[:, 0] != 0).any(axis=0), self._can_be_vertical(), False, False))
            tile, cycles = tile_of(False, lambda groups: quads * len(order_of(groups)))
            pick = False
        else:
            tile, cycles = tile_of(False, lambda groups: quad_entries(weights, order_of(groups)))
            pick = False
            if buffer.channels % isa.window == 0:
                entries = pick_entries(weights, order_of(1), isa.window)
                picking, picking_cycles = tile_of(True, lambda groups: entries)
                if pick := picking_cycles <= cycles:
                    tile, cycles = picking, picking_cycles
        self.cycles.append(cycles)
        kind = Kind(pick, register=isa.register)
        order = order_of(tile.groups)
        blocks, groups = order.shape[:2]
        columns = self._columns(index, tile.cells[1])
        shape = integer_kernels.Convolution(
            name=f"layer{index}",
            first_piece=len(self.constants.pieces),
            first_block=0,
            blocks=blocks,
            lanes=isa.lanes,
            cells=cells,
            tile=tile,
            pool=pool,
            step=(layer.stride[0] * buffer.row, layer.stride[1] * buffer.channels),
            target=(target.row, target.channels),
            lowest=layer.output_zero_point if layer.relu else 0,
            kind=kind,
        )
        place = f"workspace + {target.place} + s * {target.sample if target.samples > 1 else 0} + {target.first}"
        calls = []
        if by_taps:
            quads, data, order = self._tap_quads(index, order)
            image = f"workspace + {buffer.place}, workspace + {self._vertical}"
            if isa.dot_is_exact:
                used = np.argwhere(data.any(axis=(3, 4)))
                entries = (np.zeros(3 * blocks, np.int32), np.zeros(1, np.int32), data[tuple(used.T)])
                for block in range(blocks):
                    part = replace(shape, name=f"layer{index}_{block}", first_block=block, blocks=1)
                    taps = [(quads[q], int(g), number) for number, (q, b, g) in enumerate(used) if b == block]
                    self._functions.append(integer_kernels.written_out_tap_convolution(part, taps))
                    calls.append(f"{part.name}({image}, {place}, constants, {columns})")
            else:
                entries = self._tap_entries(quads, data)
                self._functions.append(integer_kernels.tap_convolution(shape))
                calls.append(f"{shape.name}({image}, {place}, constants, {columns})")
            self.kernels.append("taps")
        else:
            zeros = np.zeros(len(tap_offsets), np.int64)
            arranged = arrange(weights, tap_offsets, zeros, order, kind, isa)
            entries = (arranged.starts, arranged.offsets, arranged.data)
            self._functions.append(integer_kernels.convolution(shape))
            calls.append(f"{shape.name}(workspace + {buffer.place}, {place}, constants, {columns})")
            self.kernels.append("n of 64" if pick else "quads")
        self._add_layer(index, order, self._start(index, order), entries)
        computed = int(np.prod([-(-count // size) * size for count, size in zip(cells, tile.cells, strict=True)]))
        products = entries[2].nbytes // kind.group_bytes * computed * pool[0] * pool[1]
        # Per group and cell: the maxima, then conversion, product, sum, rounding, and one pack.
        others = computed * blocks * groups * (pool[0] * pool[1] - 1 + 5)
        self.operations.append(Operations(products if pick else 0, products, others, entries[2].nbytes))
        if self.gate is not None and index == self.gate.layer_index and not self._skips(index + 1):
            word = int.from_bytes(bytes([target.zero_point] * 4), "little", signed=True)
            fill = f"for byte in range(0, {target.sample}, {isa.register}):"
            calls = [fill, f"    store({place} - {target.first} + byte, splat({word}))", *calls]
        self._calls.append(calls)

    def _tap_quads(self, index: int, places: np.ndarray) -> tuple[list[TapQuad], np.ndarray, np.ndarray]:
        """The quads of a one-channel convolution's taps.

        Args:
            places: from `output_order`: where the bytes of the lanes go.

        Returns:
            The quads; their weights, int8 [quads, blocks, groups, lanes, 4]; the output of each lane.
        """
        kernel, best = self.layers[index].weight[:, 0], None
        for right_to_left, upwards in product((False, True), repeat=2):
            chosen = cover((kernel != 0).any(axis=0), self._can_be_vertical(), right_to_left, upwards)
            weights = quad_weights(kernel, chosen)
            order = places
            if self._sort_outputs:
                order = np.arange(places.size)
                order[: len(kernel)] = ranking((weights != 0).any(axis=2))
                order = order.reshape(places.shape)
            lanes = np.array([in_lanes(quad, order) for quad in weights]).reshape(len(chosen), *places.shape, 4)
            used = int(lanes.any(axis=(3, 4)).sum())
            if best is None or used < best[0]:
                best = used, chosen, lanes, order
        _, chosen, lanes, order = best
        self._reorder_channels(index + 1, order, places)
        return chosen, lanes, order

    def _tap_entries(self, quads: list[TapQuad], lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The entries of `integer_kernels.tap_convolution`: per block those in rows, then those in columns."""
        row, starts, offsets, data = self.buffers[0].row, [], [], []
        used = lanes.any(axis=(2, 3, 4))
        for block in range(lanes.shape[1]):
            for vertical in (False, True):
                starts.append(len(offsets))
                for number, quad in enumerate(quads):
                    if quad.vertical == vertical and used[number, block]:
                        offsets.append((quad.row * row + quad.column) * (4 if vertical else 1))
                        data.append(lanes[number, block])
            starts.append(len(offsets))
        return np.array(starts, np.int32), np.array(offsets, np.int32), np.array(data, np.int8)

    def _can_be_vertical(self) -> bool:
        """Whether the input is read a register at a time, which makes the image for vertical quads cheap."""
        buffer = self.buffers[0]
        return self._reads_rows() and buffer.height >= 4

    def _reads_rows(self) -> bool:
        buffer = self.buffers[0]
        whole = buffer.width % self.instruction_set.lanes == 0 and not any(buffer.padding)
        return whole and buffer.channels == 1

    def _linear(self, index: int) -> None:
        layer, buffer, isa = self.layers[index], self.buffers[index], self.instruction_set
        outputs = len(layer.weight)
        weights, tap_offsets, tap_columns = self._weights(index)
        skips = self._skips(index)
        samples = min(self._batch_size, CHUNK)
        best = None
        for kind, groups in self._linear_kernels(index):
            # Sums of float stay in the order of the outputs; bytes may come in any: the next layer's packing follows.
            packed = not layer.output_float and groups % 4 == 0
            order = output_order(outputs, groups, isa.lanes, packed=packed, shared=kind.shared)
            if kind.pick:
                entries = pick_entries(weights, order, isa.window, kind.shared)
            else:
                entries = quad_entries(weights, order)
            picks = 0 if not kind.pick else groups // SHARING if kind.shared else groups
            arithmetic = groups * isa.dot_cycles + picks * isa.pick_cycles
            loads = (2 + groups + picks) * isa.load_cycles
            size = entries * groups * kind.group_bytes
            # A block's weights stay in the cache for all samples but the first, if they fit. (Of a gated layer's, each
            # sample reads less than half.)
            kept = samples if skips or size <= len(order) * FIRST_LEVEL_BYTES else 1
            cycles = _linear_cycles(entries * max(arithmetic, loads), size, 1 / kept)
            cycles += len(order) * groups * 3
            if best is None or cycles < best[0]:
                best = cycles, kind, groups, order
        cycles, kind, groups, order = best
        if not skips and (by_events := self._event_cycles(index)) < cycles:
            self.cycles.append(by_events)
            self._event_linear(index, weights)
            return
        self.cycles.append(cycles)
        # Enough sums at a time for the latency of an addition: 5 cycles, one pair or two quads each; else one cycle.
        sums = min(8 if kind.pick else 16, isa.accumulators) if isa.dot_is_exact else 4
        unroll = max(1, sums // groups)
        if not skips:
            tap_columns = np.zeros_like(tap_columns)
        entries = arrange(weights, tap_offsets, tap_columns, order, kind, isa, unroll)
        blocks, columns = order.shape[0], entries.starts.shape[1] - 1
        # What `dot` leaves out is left out of the columns that are read.
        start_by_column = skips and not isa.dot_is_exact
        if start_by_column:
            left_out = [isa.left_out(weights[:, tap_columns == column]) for column in range(columns)]
            lanes = in_lanes(np.array(left_out, np.int32).T, order)
            start = np.ascontiguousarray(lanes.transpose(0, 3, 1, 2))
        else:
            start = self._start(index, order)
        first = self._add_layer(index, order, start, (entries.starts // unroll, entries.offsets, entries.data))
        target, step = self._linear_target(index, order)
        shape = integer_kernels.Linear(
            name=f"layer{index}",
            first_piece=first,
            blocks=blocks,
            groups=groups,
            lanes=isa.lanes,
            unroll=unroll,
            columns=columns,
            start_by_column=start_by_column,
            source=buffer.sample,
            target=step,
            list_step=self._kept_step if skips else 0,
            lowest=layer.output_zero_point if layer.relu else 0,
            output_float=layer.output_float,
            relu=layer.relu,
            kind=kind,
        )
        if kind.shared:
            self._reorder_channels(index + 1, order, output_order(outputs, groups, isa.lanes, packed=True))
        self._functions.append(integer_kernels.linear(shape))
        products = entries.data.nbytes // kind.group_bytes
        picks = 0 if not kind.pick else products // SHARING if kind.shared else products
        others = blocks * groups * (5 + unroll - 1)
        self.operations.append(Operations(picks, products, others, entries.data.nbytes))
        chosen = f"workspace + {self._kept}" if skips else f"piece(constants, {self._all_columns})"
        self._calls.append([f"{shape.name}(workspace + {buffer.place}, {target}, constants, {chosen}, inside)"])
        self.kernels.append("n of 64" if kind.pick else "quads")

    def _linear_kernels(self, index: int) -> list[tuple[Kind, int]]:
        """The kernels that a linear layer may have: the kind of its entries and the groups of a block."""
        layer, buffer, isa = self.layers[index], self.buffers[index], self.instruction_set
        most = min(8, -(-len(layer.weight) // isa.lanes))
        groups = [most] if layer.output_float else [8, 4] if most > 4 else [4]
        quads = [(Kind(False, register=isa.register), count) for count in groups]
        if buffer.channels % isa.window:
            return quads
        shared = [] if layer.output_float else [(Kind(True, True, isa.register), count) for count in groups]
        # Where a window is small, few groups have all of their channels in the same one.
        fewer = [count for count in (2, 1) if isa.window < 64 and count < groups[-1]]
        return shared + [(Kind(True, register=isa.register), count) for count in groups + fewer] + quads

    def _linear_target(self, index: int, order: np.ndarray) -> tuple[str, int]:
        """Where a linear layer writes, and the bytes from sample to sample."""
        if index == len(self.layers) - 1:
            self._out_step = 4 * order.size
            self._out = self._reserve(CHUNK * self._out_step)
            return f"workspace + {self._out}", self._out_step
        after = self.buffers[index + 1]
        return f"workspace + {after.place}", after.sample

    def _event_cycles(self, index: int) -> float:
        """What a layer would take if it read the weights of its active inputs only; an estimate, per sample."""
        layer = self.layers[index]
        if layer.input_zero_point:
            return np.inf
        isa, inputs = self.instruction_set, layer.weight.shape[1]
        rows, registers = layer.active * inputs, round_up(len(layer.weight), 4 * isa.lanes) // isa.lanes
        # Of four rows and four groups: eight interleavings and four products, on one port or two.
        four = 6 + 4 * isa.dot_cycles * (1 if isa.dot_is_exact else 2)
        listing = inputs * (0.25 if isa.lanes == 16 else 1.5)
        arithmetic = rows / integer_kernels.EVENTS * registers / 4 * four + listing
        # Rows here and there come slower than what lies in a row.
        return 1.5 * _linear_cycles(arithmetic, layer.weight.size, layer.active)

    def _event_linear(self, index: int, weights: np.ndarray) -> None:
        layer, buffer, isa = self.layers[index], self.buffers[index], self.instruction_set
        outputs = len(layer.weight)
        # The most at a time, so that the list is walked seldom, but not beyond the next layer's channels.
        fitting = [
            g for g in (16, 8) if g <= isa.accumulators and round_up(outputs, 2 * CHANNELS) % (g * isa.lanes) == 0
        ]
        groups = max(fitting, default=4)
        order = output_order(outputs, groups, isa.lanes, packed=not layer.output_float)
        rows = weights.reshape(outputs, -1)
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % isa.lanes)))
        inputs, blocks = rows.shape[1], order.shape[0]
        # The kernel's interleaving puts byte 16 q + 4 v + i of a register into doubleword 4 q + i of group v's sums.
        lanes = in_lanes(rows, order).reshape(blocks, groups // 4, 4, isa.lanes // 4, 4, inputs)
        data = np.ascontiguousarray(lanes.transpose(0, 5, 1, 3, 2, 4))
        start = in_lanes(self._zero_point_sums(index).astype(np.int32), order)
        first = self._add_layer(index, order, start, (np.zeros(1, np.int32), np.zeros(1, np.int32), data))
        target, step = self._linear_target(index, order)
        shape = integer_kernels.EventLinear(
            name=f"layer{index}",
            first_piece=first,
            blocks=blocks,
            groups=groups,
            lanes=isa.lanes,
            inputs=inputs,
            source=buffer.sample,
            target=step,
            # Whole registers are written behind the last of the list.
            places=self._reserve(4 * (inputs + 2 * isa.lanes)),
            values=self._reserve(inputs + 2 * isa.lanes),
            lowest=layer.output_zero_point if layer.relu else 0,
            output_float=layer.output_float,
            relu=layer.relu,
        )
        self._functions.append(integer_kernels.event_linear(shape))
        share = layer.active / integer_kernels.EVENTS
        products = round(share * inputs * blocks * groups)
        others = 2 * products + blocks * groups * 5 + inputs // isa.lanes * 8
        self.operations.append(Operations(0, products, others, round(layer.active * data.nbytes)))
        self._calls.append([f"{shape.name}(workspace + {buffer.place}, {target}, constants, workspace, inside)"])
        self.kernels.append("events")

    def _winners(self, index: int) -> None:
        """The choice of a layer's winners, in the next one's input."""
        layer, target = self.layers[index], self.buffers[index + 1]
        if not layer.relu:
            raise Unsupported("Bytes between the outputs must be no larger than these.")
        shape = integer_kernels.Winners(
            name=f"winners{index}",
            k=layer.winners,
            rows=target.height,
            row_bytes=target.width * target.channels,
            step=target.row,
            zero_point=layer.output_zero_point,
            register=self.instruction_set.register,
        )
        self._functions.append(integer_kernels.keep_winners(shape))
        sample = f"workspace + {target.place + target.first}"
        if target.samples > 1:
            sample += f" + s * {target.sample}"
        choose = [f"{shape.name}({sample})"]
        if layer.kind == "linear":
            choose = ["for s in range(inside):", "    " + choose[0]]
        self._calls[index] += choose

    def _input(self, quantization: InputQuantization) -> None:
        """The quantisation, which also sums what the gate wants."""
        layer, buffer = self.layers[0], self.buffers[0]
        channels, height, width = (*layer.input_shape, 1, 1)[:3]
        places = (buffer.row, buffer.channels, 1)
        if layer.kind == "linear" and channels == 1:
            places = (width, 1, 1)
        shape = integer_kernels.Input(
            channels=channels,
            height=height,
            width=width,
            place=places,
            first=buffer.first,
            inverse_scale=float(quantization.inverse_scale),
            zero_point=quantization.zero_point,
            vertical=layer.kind == "conv" and self._can_be_vertical(),
            sums=self.gate is not None,
            lanes=self.instruction_set.lanes,
        )
        by_rows = self._reads_rows()
        self._functions.append(integer_kernels.input_rows(shape) if by_rows else integer_kernels.input_values(shape))

    # The whole

    def _sample_parts(self) -> list[list[str]]:
        """What is done sample by sample: the input, the gate, each convolution."""
        image = self.buffers[0]
        step = image.sample if image.samples > 1 else 0
        inputs = int(np.prod(self.layers[0].input_shape))
        sums = f"workspace + {self._sums}"
        first = [
            f"place = x_place + 4 * {inputs} * (begin + s)",
            f"target = workspace + {image.place} + s * {step}",
            f"bad |= read_input(place, target, workspace + {self._vertical}, {sums})",
        ]
        second = []
        if self.gate is not None:
            kept = f"workspace + {self._kept} + s * {self._kept_step}"
            second = [f"choose_columns({sums}, workspace + {self._energies}, {kept}, workspace, constants)"]
        return [first, second, *self._calls[: self._first_linear]]

    def program(self) -> CompiledProgram:
        return CompiledProgram(
            self.text(),
            self.constants,
            self.workspace(),
            [f"{kernel}, {self.instruction_set.name}" for kernel in self.kernels],
            self.operations,
            self.cycles,
            CHUNK,
        )

    def text(self) -> str:
        """The source of the module: `run` is the program, `repeat` runs one part of it, to be timed."""
        shapes = (self.layers[0].input_shape, self.layers[-1].output_shape)
        outputs = len(self.layers[-1].weight)
        sample_parts = self._sample_parts()
        chunk_parts = self._calls[self._first_linear :]
        indent = integer_kernels.indent
        body = [
            f"for begin in range(0, samples, {CHUNK}):",
            f"    inside = min({CHUNK}, samples - begin)",
            "    for s in range(inside):",
            *(" " * 8 + line for part in sample_parts for line in part),
            *(" " * 4 + line for part in chunk_parts for line in part),
            "    for s in range(inside):",
            f"        for o in range({outputs}):",
            f"            value = load_float(workspace + {self._out} + {self._out_step} * s + 4 * o)",
            f"            store_float(out_place + 4 * ({outputs} * (begin + s) + o), value)",
        ]
        run = integer_kernels.run_function(*(1 + len(shape) for shape in shapes), body)
        parts = [["for s in range(inside):", *indent(part or ["pass"])] for part in sample_parts] + chunk_parts
        repeat = integer_kernels.repeat_function(CHUNK, enumerate(parts))
        functions = integer_kernels.PIECE + "".join(self._functions)
        return "\n".join([integer_kernels.header(self.instruction_set) + functions, "", *run, "", "", *repeat, ""])


def _linear_cycles(arithmetic: float, weight_bytes: int, share: float) -> float:
    """An estimate of what a linear layer takes per sample, which reads the share `share` of its weights for each."""
    near = weight_bytes <= SECOND_LEVEL_BYTES
    return max(arithmetic, share * weight_bytes / (SECOND_LEVEL_SPEED if near else THIRD_LEVEL_SPEED))

"""From integer layers to one compiled function that runs them all."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

import numpy as np

from dualsparse.layers import ColumnGate, FloatLayer, InputQuantization, IntegerLayer

from . import cpu, source
from .batched import BatchedBuilder
from .compiled import CompiledProgram, Constants, Operations, Unsupported, check_layers
from .packing import (
    LANES,
    REGISTER,
    SHARING,
    cover,
    entry_bytes,
    in_lanes,
    output_order,
    pack,
    permute_slots,
    quad_weights,
    quads,
    ranking,
    round_up,
)

#: Samples whose activations wait together for a linear layer, so that its weights are fetched once for all of them.
CHUNK = 16
#: The smallest first-level cache of a CPU with these instructions, less what else is in it.
FIRST_LEVEL_BYTES = 30_000
#: The smallest batch for which a register of 16 samples is considered.
LEAST_BATCH = 4
#: Accumulators of a tile: 32 registers less the weights, the activations and what pooling needs.
ACCUMULATORS = 24
#: Bytes per cycle from the second-level cache, and from the third for weights that don't fit the second beside others.
SECOND_LEVEL_SPEED, THIRD_LEVEL_SPEED = 40, 12
SECOND_LEVEL_BYTES = 768 * 1024


def compile_program(
    layers: Sequence[FloatLayer] | Sequence[IntegerLayer],
    quantization: InputQuantization | None,
    gate: ColumnGate | None = None,
    batch_size: int = 1,
    features: frozenset[str] | None = None,
) -> CompiledProgram | None:
    """Compile a sequence of layers, or load it from the cache of an earlier run.

    Args:
        layers: all of integers, the last one with float32 output; or all of float32.
        quantization: of the float32 input, for layers of integers.
        gate: a choice of columns, or None.
        batch_size: how many samples a call usually has. Programs run any number, but are made for it.
        features: what the CPU may be assumed to have (LLVM's names); by default all that it has.

    Returns:
        The fastest program; None if this CPU or this sequence of layers has no fast one.
    """
    if not (cpu.host_features() if features is None else features) >= cpu.REQUIRED:
        return None
    builders = []
    with suppress(Unsupported):
        if quantization is not None:
            builders.append(_Builder(layers, quantization, gate, batch_size))
    with suppress(Unsupported):
        if gate is None and batch_size >= LEAST_BATCH:
            builders.append(BatchedBuilder(layers, quantization))
    # A register of samples costs the same, however many of them there are.
    lanes = round_up(batch_size, LANES) / batch_size
    costs = [builder.cycles * (lanes if isinstance(builder, BatchedBuilder) else 1) for builder in builders]
    return builders[int(np.argmin(costs))].program() if builders else None


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
        return round_up(rows * self.row + 4, REGISTER)

    @property
    def first(self) -> int:
        """Distance of the first position that isn't padding."""
        return self.padding[0] * self.row + self.padding[1] * self.channels

    @property
    def bytes(self) -> int:
        return self.samples * self.sample


class _Builder:
    """Collects the kernels' sources, the constants and the workspace of a program, layer by layer."""

    def __init__(
        self, layers: list[IntegerLayer], quantization: InputQuantization, gate: ColumnGate | None, batch_size: int
    ):
        self.layers = layers
        self.gate = gate
        self._batch_size = batch_size
        self.constants = Constants()
        self.kernels: list[str] = []
        self.operations: list[Operations] = []
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
        self._sums = self._reserve(4 * round_up(self.buffers[0].width, LANES))
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
        self._size += round_up(size, REGISTER)
        return place

    def _plan_buffers(self) -> None:
        """The input buffer of each layer, with as many channels as the layer before writes."""
        for index, layer in enumerate(self.layers):
            channels, height, width = (*layer.input_shape, 1, 1)[:3]
            if index:
                previous = self.layers[index - 1]
                channels = round_up(channels, 128 if previous.kind == "linear" else REGISTER)
            elif channels > 1:
                channels = round_up(channels, REGISTER if channels > 16 else 4)
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
        self._kept_step = round_up(4 * (gate.columns + 1), REGISTER)
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
        shape = source.Gate(
            kernel_width=gate.kernel_width,
            stride_width=gate.stride_width,
            keep=gate.keep,
            columns=gate.columns,
            pair=gate.pair,
            masks_piece=piece,
            lists=tuple(self._lists.values()),
        )
        self._functions.append(source.column_gate(shape))

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

    def _add_layer(self, index: int, order: np.ndarray, entries: tuple[np.ndarray, np.ndarray, np.ndarray]) -> int:
        """Adds a layer's pieces in the order of `source.PIECES`; returns the first."""
        layer = self.layers[index]
        start = -layer.input_zero_point * layer.weight.astype(np.int64).reshape(len(layer.weight), -1).sum(axis=1)
        first = self.constants.add(in_lanes(start.astype(np.int32), order))
        for values in (layer.multiplier, layer.offset):
            self.constants.add(in_lanes(values, order))
        for values in entries:
            self.constants.add(values)
        return first

    def _convolution(self, index: int) -> None:
        layer, buffer, target = self.layers[index], self.buffers[index], self.buffers[index + 1]
        outputs = len(layer.weight)
        pool = layer.pool or (1, 1)
        weights, tap_offsets, _ = self._weights(index)
        quad_groups = min(4, -(-outputs // LANES))
        quad_order = output_order(outputs, quad_groups, quad_groups == 4)
        permute_order = output_order(outputs, 1, False)
        by_taps = buffer.channels == 1
        permute = not by_taps and buffer.channels % REGISTER == 0
        # Per position a pair takes twice the time of a quad: the ports do two operations in a cycle.
        permute = permute and 2 * permute_slots(weights, permute_order) <= quads(weights, quad_order)
        order = permute_order if permute else quad_order
        blocks, groups = order.shape[:2]
        if by_taps and (blocks > 1 or layer.dilation != (1, 1)):
            raise Unsupported("A convolution of one channel is for at most 64 outputs, without dilation.")
        cells = layer.output_shape[1:]
        gated = self.gate is not None and index <= self.gate.layer_index
        shape = source.Convolution(
            name=f"layer{index}",
            first_piece=len(self.constants.pieces),
            blocks=blocks,
            groups=groups,
            cells=cells,
            tile=_tile(cells, pool[0] * pool[1] * groups, gated),
            pool=pool,
            step=(layer.stride[0] * buffer.row, layer.stride[1] * buffer.channels),
            target=(target.row, target.channels),
            lowest=layer.output_zero_point if layer.relu else 0,
            permute=permute,
        )
        arguments = f"workspace + {buffer.place}"
        if by_taps:
            places = order
            taps, data, order = self._tap_quads(layer.weight[:, 0], places)
            self._reorder_channels(index + 1, order, places)
            self._add_layer(index, order, (np.zeros(2, np.int32), np.zeros(1, np.int32), data))
            self._functions.append(source.tap_convolution(shape, taps))
            self.kernels.append("taps, vpdpbusd")
            arguments += f", workspace + {self._vertical}"
        else:
            zeros = np.zeros(len(tap_offsets), np.int64)
            entries = pack(weights, tap_offsets, zeros, order, permute=permute)
            self._add_layer(index, order, (entries.starts, entries.offsets, entries.data))
            self._functions.append(source.convolution(shape))
            self.kernels.append("n of 64, vpermb" if permute else "quads, vpdpbusd")
        cells_computed = self._tiles(shape) * shape.tile[0] * shape.tile[1]
        positions = cells_computed * pool[0] * pool[1]
        data = self.constants.pieces[-1]
        products = data.nbytes // entry_bytes(permute) * positions
        # Per group and cell: the maxima, then conversion, product, sum, rounding, and one pack.
        others = cells_computed * blocks * groups * (pool[0] * pool[1] - 1 + 5)
        self.operations.append(Operations(products if permute else 0, products, others, data.nbytes))
        place = f"workspace + {target.place} + s * {target.sample if target.samples > 1 else 0}"
        columns = self._columns(index, shape.tile[1])
        calls = [f"{shape.name}({arguments}, {place} + {target.first}, constants, {columns})"]
        if self.gate is not None and index == self.gate.layer_index and not self._skips(index + 1):
            word = int.from_bytes(bytes([target.zero_point] * 4), "little", signed=True)
            fill = [f"for byte in range(0, {target.sample}, {REGISTER}):", f"    store({place} + byte, splat({word}))"]
            calls = [*fill, *calls]
        self._calls.append(calls)

    @staticmethod
    def _tiles(shape: source.Convolution) -> int:
        return int(np.prod([-(-cells // tile) for cells, tile in zip(shape.cells, shape.tile, strict=True)]))

    def _tap_quads(self, kernel: np.ndarray, positions: np.ndarray) -> tuple[list, np.ndarray, np.ndarray]:
        """The quads of a one-channel convolution's taps.

        Args:
            kernel: int8 [outputs, rows, columns].
            positions: from `output_order`, one block: where the bytes of the lanes go.

        Returns:
            Which group uses which quad, as `source.tap_convolution` takes it; their weights; the output of each lane.
        """
        best = None
        for right_to_left, upwards in product((False, True), repeat=2):
            chosen = cover((kernel != 0).any(axis=0), self._can_be_vertical(), right_to_left, upwards)
            weights = quad_weights(kernel, chosen)
            order = np.arange(positions.size)
            order[: len(kernel)] = ranking((weights != 0).any(axis=2))
            order = order.reshape(positions.shape)
            lanes = np.array([in_lanes(quad, order)[0] for quad in weights])
            used = np.argwhere(lanes.any(axis=(2, 3)))
            if best is None or len(used) < len(best[0]):
                taps = [(chosen[quad], int(group), number) for number, (quad, group) in enumerate(used)]
                best = taps, lanes[used[:, 0], used[:, 1]], order
        return best

    def _can_be_vertical(self) -> bool:
        """Whether the input is read a register at a time, which makes the image for vertical quads cheap."""
        buffer = self.buffers[0]
        return self._reads_rows() and buffer.height >= 4

    def _reads_rows(self) -> bool:
        buffer = self.buffers[0]
        whole = buffer.width % LANES == 0 and buffer.width <= 8 * LANES and not any(buffer.padding)
        return whole and buffer.channels == 1

    def _linear(self, index: int) -> None:
        layer, buffer = self.layers[index], self.buffers[index]
        outputs = len(layer.weight)
        weights, tap_offsets, tap_columns = self._weights(index)
        groups = min(8, -(-outputs // LANES)) if layer.output_float else 8 if outputs > REGISTER else 4
        packed = not layer.output_float
        order = output_order(outputs, groups, packed)
        permute = shared = False
        if buffer.channels % REGISTER == 0:
            slots = permute_slots(weights, order)
            # Sums of float stay in the order of the outputs; bytes may come in any: the next layer's packing follows.
            by_fours = output_order(outputs, groups, packed, shared=packed)
            shared = packed and permute_slots(weights, by_fours, shared=True) <= slots
            picks = slots // SHARING if shared else slots
            permute = slots + picks <= quads(weights, order)
            shared &= permute
        width = entry_bytes(permute, shared)
        skips = self._skips(index)
        if permute and groups == 8 and not skips and slots * width > order.shape[0] * FIRST_LEVEL_BYTES:
            # A block's weights have to stay in the cache for all samples but the first. (Of a gated layer's, each
            # sample reads less than half.)
            groups = 4
        order = output_order(outputs, groups, packed, shared)
        # Enough sums at a time for the latency of an addition: 5 cycles, one pair or two quads each.
        unroll = max(1, (8 if permute else 16) // groups)
        if not skips:
            tap_columns = np.zeros_like(tap_columns)
        entries = pack(weights, tap_offsets, tap_columns, order, permute=permute, shared=shared, unroll=unroll)
        products = entries.data.nbytes // width
        picks = 0 if not permute else products // SHARING if shared else products
        arithmetic = (products + picks) / 2
        samples = min(self._batch_size, CHUNK)
        if not skips and self._event_cycles(index) < _linear_cycles(arithmetic, entries.data.nbytes, 1 / samples):
            self._event_linear(index, weights)
            return
        first = self._add_layer(index, order, (entries.starts // unroll, entries.offsets, entries.data))
        blocks = order.shape[0]
        target, step = self._linear_target(index, order)
        shape = source.Linear(
            name=f"layer{index}",
            first_piece=first,
            blocks=blocks,
            groups=groups,
            unroll=unroll,
            columns=entries.starts.shape[1] - 1,
            source=buffer.sample,
            target=step,
            list_step=self._kept_step if skips else 0,
            lowest=layer.output_zero_point if layer.relu else 0,
            output_float=layer.output_float,
            relu=layer.relu,
            permute=permute,
            shared=shared,
        )
        if shared:
            self._reorder_channels(index + 1, order, output_order(outputs, groups, packed))
        self._functions.append(source.linear(shape))
        others = blocks * groups * (5 + unroll - 1)
        self.operations.append(Operations(picks, products, others, entries.data.nbytes))
        columns = f"workspace + {self._kept}" if skips else f"piece(constants, {self._all_columns})"
        self._calls.append([f"{shape.name}(workspace + {buffer.place}, {target}, constants, {columns}, inside)"])
        self.kernels.append("n of 64, vpermb" if permute else "quads, vpdpbusd")

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
        rows, registers = layer.active * layer.weight.shape[1], round_up(len(layer.weight), 4 * LANES) // LANES
        # Of four rows and four groups: eight interleavings and four products, on one port or two.
        arithmetic = rows / source.EVENTS * registers / 4 * 8 + layer.weight.shape[1] / 4
        # Rows here and there come slower than what lies in a row.
        return 1.5 * _linear_cycles(arithmetic, layer.weight.size, layer.active)

    def _event_linear(self, index: int, weights: np.ndarray) -> None:
        layer, buffer = self.layers[index], self.buffers[index]
        outputs = len(layer.weight)
        # The most at a time, so that the list is walked seldom, but not beyond the next layer's channels.
        groups = next(g for g in (16, 8, 4) if g == 4 or round_up(outputs, 8 * LANES) % (g * LANES) == 0)
        order = output_order(outputs, groups, not layer.output_float)
        rows = weights.reshape(outputs, -1)
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % LANES)))
        inputs, blocks = rows.shape[1], order.shape[0]
        # The kernel's interleaving puts byte 16 q + 4 v + i of 64 into doubleword 4 q + i of the sums of group v.
        lanes = in_lanes(rows, order).reshape(blocks, groups // 4, 4, 4, 4, inputs)
        data = np.ascontiguousarray(lanes.transpose(0, 5, 1, 3, 2, 4))
        first = self._add_layer(index, order, (np.zeros(1, np.int32), np.zeros(1, np.int32), data))
        target, step = self._linear_target(index, order)
        shape = source.EventLinear(
            name=f"layer{index}",
            first_piece=first,
            blocks=blocks,
            groups=groups,
            inputs=inputs,
            source=buffer.sample,
            target=step,
            # Whole registers are written behind the last of the list.
            places=self._reserve(4 * (inputs + 2 * LANES)),
            values=self._reserve(inputs + 2 * LANES),
            lowest=layer.output_zero_point if layer.relu else 0,
            output_float=layer.output_float,
            relu=layer.relu,
        )
        self._functions.append(source.event_linear(shape))
        share = layer.active / source.EVENTS
        products = round(share * inputs * blocks * groups)
        others = 2 * products + blocks * groups * 5 + inputs // LANES * 8
        self.operations.append(Operations(0, products, others, round(layer.active * data.nbytes)))
        self._calls.append([f"{shape.name}(workspace + {buffer.place}, {target}, constants, workspace, inside)"])
        self.kernels.append("events, vpdpbusd")

    def _winners(self, index: int) -> None:
        """The choice of a layer's winners, in the next one's input."""
        layer, target = self.layers[index], self.buffers[index + 1]
        if not layer.relu:
            raise Unsupported("Bytes between the outputs must be no larger than these.")
        shape = source.Winners(
            name=f"winners{index}",
            k=layer.winners,
            rows=target.height,
            row_bytes=target.width * target.channels,
            step=target.row,
            zero_point=layer.output_zero_point,
        )
        self._functions.append(source.keep_winners(shape))
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
        shape = source.Input(
            channels=channels,
            height=height,
            width=width,
            place=places,
            first=buffer.first,
            inverse_scale=float(quantization.inverse_scale),
            zero_point=quantization.zero_point,
            vertical=layer.kind == "conv" and self._can_be_vertical(),
            sums=self.gate is not None,
        )
        self._functions.append(source.input_rows(shape) if self._reads_rows() else source.input_values(shape))

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

    @property
    def cycles(self) -> float:
        """An estimate, per sample: one port permutes, two do arithmetic."""
        arithmetic = sum(work.permutations + work.products + work.others for work in self.operations)
        return max(sum(work.permutations for work in self.operations), arithmetic / 2)

    def program(self) -> CompiledProgram:
        return CompiledProgram(
            self.text(), self.constants, self.workspace(), self.kernels, self.operations, chunk=CHUNK
        )

    def text(self) -> str:
        """The source of the module: `run` is the program, `repeat` runs one part of it, to be timed."""
        shapes = (self.layers[0].input_shape, self.layers[-1].output_shape)
        outputs = len(self.layers[-1].weight)
        sample_parts = self._sample_parts()
        chunk_parts = self._calls[self._first_linear :]
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
        run = source.run_function(*(1 + len(shape) for shape in shapes), body)
        repeat = [
            "@njit(nogil=True, cache=True)",
            "def repeat(number, times, x, workspace, constants):",
            f'    """Runs one part on at most {CHUNK} samples: the input, the gate, or a layer."""',
            "    x_place, begin, bad = address_of(x), 0, False",
            f"    inside = min({CHUNK}, len(x))",
            "    for time in range(times):",
        ]
        for number, part in enumerate(sample_parts):
            loop = ["for s in range(inside):", *("    " + line for line in part or ["pass"])]
            repeat += [f"        if number == {number}:", *("            " + line for line in loop)]
        for number, part in enumerate(chunk_parts, len(sample_parts)):
            repeat += [f"        if number == {number}:", *("            " + line for line in part)]
        repeat.append("    return bad")
        return "\n".join([source.HEADER + "".join(self._functions), "", *run, "", "", *repeat, ""])


def _linear_cycles(arithmetic: float, weight_bytes: int, share: float) -> float:
    """An estimate of what a linear layer takes per sample, which reads the share `share` of its weights for each."""
    near = weight_bytes <= SECOND_LEVEL_BYTES
    return max(arithmetic, share * weight_bytes / (SECOND_LEVEL_SPEED if near else THIRD_LEVEL_SPEED))


def _tile(cells: tuple[int, int], per_cell: int, one_column: bool) -> tuple[int, int]:
    """Pooled cells per tile: what fills the accumulators with the least computed twice, tall rather than wide."""
    most = ACCUMULATORS // per_cell
    if most == 0:
        raise Unsupported("The pool is too large for a tile.")
    best, least = (1, 1), None
    for rows in range(1, min(cells[0], most) + 1):
        for columns in range(1, 2 if one_column else min(cells[1], most // rows) + 1):
            tiles = -(-cells[0] // rows) * -(-cells[1] // columns)
            cost = tiles * (rows * columns * per_cell + 4)
            if least is None or cost <= least:
                best, least = (rows, columns), cost
    return best

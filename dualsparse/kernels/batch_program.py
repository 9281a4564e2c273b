"""Programs with a sample in each lane of a register: for float32, and for 8-bit weights in blocks of four channels.

Here the lanes of a register are samples, so that every weight may be zero or not by itself: a kernel walks the list of
an output's non-zero weights, spreads each over a register, and multiplies it with the activations at the positions of
a tile. Activations are cells of a register each: a sample's value of one channel in each lane in float32, or its values
of four channels in bytes, which `dot` multiplies with four weights.

Each weight meets another place of the input, so what limits is how fast activations come from memory. A tile's input
is therefore cut along the channels into splits that fit the first-level cache, and all outputs are brought forward by
one split before the next begins; their sums wait in `sums` meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from dualsparse.layers import FloatLayer, InputQuantization, IntegerLayer

from .compilation import CompiledProgram, Constants, Operations, Unsupported, check_layers
from .instruction_sets import InstructionSet
from .integer_kernels import PIECE, function, header, indent, repeat_function, run_function, smaller
from .weight_layout import CACHE_LINE, cover, quad_weights, round_up

#: Registers of samples that a linear layer computes together, so that each weight is used more than once.
GROUPS = 2
#: Sums of a linear layer that are computed together, because an addition has to wait for the one before.
LINEAR_OUTPUTS = 4
#: Bytes per cycle from the second-level cache.
SECOND_LEVEL_SPEED = 32
#: Bytes of a tile's input that are worked on at a time; the first-level cache also holds sums and weights.
SPLIT_BYTES = 28 * 1024


@dataclass(frozen=True)
class Buffer:
    """Activations of `groups` registers of samples: planes (of one or four channels) of rows of cells, with padding."""

    place: int
    planes: int
    height: int
    width: int
    padding: tuple[int, int, int, int]  # top, left, bottom, right
    groups: int
    fill: int  # the byte of padding
    cell: int  # bytes: a register

    @property
    def row(self) -> int:
        return (self.width + self.padding[1] + self.padding[3]) * self.cell

    @property
    def plane(self) -> int:
        return (self.height + self.padding[0] + self.padding[2]) * self.row

    @property
    def group(self) -> int:
        return self.planes * self.plane

    @property
    def first(self) -> int:
        return self.padding[0] * self.row + self.padding[1] * self.cell


@dataclass(frozen=True)
class Weights:
    """The non-zero weights of a layer.

    Attributes:
        outputs, planes, offsets: int [weights]: which output, which plane of the input, and how many bytes from the
            place of an output position's first activation.
        values: float32 [weights, 1] or int8 [weights, 4].
    """

    outputs: np.ndarray
    planes: np.ndarray
    offsets: np.ndarray
    values: np.ndarray


def sparse_weights(layer: FloatLayer | IntegerLayer, buffer: Buffer, input_by_quads: bool) -> Weights:
    """The non-zero weights of a layer whose input lies in `buffer`.

    With `input_by_quads`, plane 0 of the input holds at each place four neighbours of a row, plane 1 four of a column.
    """
    if layer.kind == "conv":
        kernel, dilation = layer.weight, layer.dilation
    else:
        kernel, dilation = layer.weight.reshape(len(layer.weight), -1, buffer.height, buffer.width), (1, 1)
    if input_by_quads:
        found = []
        for output, taps in enumerate(kernel[:, 0]):
            chosen = cover(taps != 0, True, False, False)
            for quad, values in zip(chosen, quad_weights(taps[None], chosen)[:, 0], strict=True):
                offset = int(quad.vertical) * buffer.plane + quad.row * buffer.row + quad.column * buffer.cell
                found.append((output, int(quad.vertical), offset, *values))
        table = np.array(found, np.int64).reshape(-1, 7)
        return Weights(table[:, 0], table[:, 1], table[:, 2], table[:, 3:].astype(np.int8))
    size = 1 if isinstance(layer, FloatLayer) else 4
    kernel = np.pad(kernel, ((0, 0), (0, -kernel.shape[1] % size), (0, 0), (0, 0)))
    blocks = kernel.reshape(len(kernel), -1, size, *kernel.shape[2:])
    outputs, planes, rows, columns = np.nonzero(blocks.any(axis=2))
    offsets = planes * buffer.plane + rows * dilation[0] * buffer.row + columns * dilation[1] * buffer.cell
    return Weights(outputs, planes, offsets, blocks[outputs, planes, :, rows, columns])


@dataclass(frozen=True)
class Sparse:
    """The shape of a layer's kernel: a tile of pooled cells (or of groups of samples), for `together` outputs."""

    name: str
    integer: bool
    first_piece: int
    outputs: int
    blocks: int  # of outputs that are computed together
    together: int
    splits: int
    cells: tuple[int, int]
    tile: tuple[int, int]
    pool: tuple[int, int]
    step: tuple[int, int]  # bytes of the input from one output position to the next: down, right
    target: tuple[int, int, int]  # bytes of the output from plane to plane, down, right
    sums: int  # place in the workspace
    relu: bool
    lowest: int
    output_float: bool
    register: int  # bytes

    def positions(self) -> list[tuple[int, int]]:
        """Output positions of a tile, cell by cell."""
        inside = list(product(range(self.pool[0]), range(self.pool[1])))
        cells = product(range(self.tile[0]), range(self.tile[1]))
        return [(y * self.pool[0] + py, x * self.pool[1] + px) for y, x in cells for py, px in inside]


#: The arrays of a layer, in this order in its pieces.
PIECES = ("starts", "entries", "slots", "start", "multiplier", "offset")


def pack_weights(weights: Weights, outputs: int, planes: int, splits: int, together: int) -> tuple[np.ndarray, ...]:
    """The entries of a layer: for each split, block of outputs and step, one weight of each output.

    Outputs with about as many weights form a block, because the shorter lists are filled with zeros.

    Returns:
        starts, int32 [splits * blocks + 1]: the first step of each split and block; entries, uint8 [steps, together,
        8]: offset and weight; slots, int32 [outputs]: the place of an output among the blocks.
    """
    blocks = -(-outputs // together)
    counts = np.bincount(weights.outputs, minlength=blocks * together)
    order = np.argsort(counts, kind="stable") if together > 1 else np.arange(blocks * together)
    slots = np.argsort(order)
    split = weights.planes * splits // planes
    key = (split * blocks + slots[weights.outputs] // together) * together + slots[weights.outputs] % together
    sorting = np.argsort(key, kind="stable")
    lengths = np.bincount(key, minlength=splits * blocks * together)
    steps = lengths.reshape(-1, together).max(axis=1)
    starts = np.concatenate([[0], np.cumsum(steps)]).astype(np.int32)
    number = np.arange(len(key)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    entries = np.zeros((starts[-1], together, 2), np.int32)
    place = starts[key[sorting] // together] + number, key[sorting] % together
    entries[*place, 0] = weights.offsets[sorting]
    entries[*place, 1] = np.ascontiguousarray(weights.values[sorting]).view(np.int32)[:, 0]
    return starts, entries, slots[:outputs].astype(np.int32)


def sparse_layer(shape: Sparse) -> str:
    """The source of a layer's kernel."""
    positions = shape.positions()
    many, inside = len(positions), shape.pool[0] * shape.pool[1]
    names = [[f"a{q}_{p}" for p in range(many)] for q in range(shape.together)]
    slot_bytes = many * shape.register
    step = [f"entry = entries + e * {8 * shape.together}"]
    for q in range(shape.together):
        step += [f"there = here + load_int32(entry + {8 * q})", f"weight = broadcast(entry + {8 * q + 4})"]
        for p, (row, column) in enumerate(positions):
            activations = f"load(there + {row * shape.step[0] + column * shape.step[1]})"
            name = names[q][p]
            product_sum = (
                f"dot({name}, {activations}, weight)"
                if shape.integer
                else f"multiply_add({activations}, weight, {name})"
            )
            step.append(f"{name} = {product_sum}")
    fused = shape.splits == 1 and shape.together == 1
    multiply: list[str] = []
    if not fused:
        sums = [
            (names[q][p], f"slot + {q * slot_bytes + p * shape.register}")
            for q in range(shape.together)
            for p in range(many)
        ]
        multiply = [
            f"for number in range({shape.splits * shape.blocks}):",
            f"    slot = sums + number % {shape.blocks} * {slot_bytes * shape.together}",
            *(f"    {name} = load({place})" for name, place in sums),
            "    for e in range(load_int32(starts + 4 * number), load_int32(starts + 4 * number + 4)):",
            *indent(step, 2),
            *(f"    store({place}, {name})" for name, place in sums),
        ]
    bytes_out = shape.integer and not shape.output_float
    outputs_at_once = 4 if bytes_out else 1
    cells = list(product(range(shape.tile[0]), range(shape.tile[1])))
    finish = [f"word{cell} = zero" for cell in range(len(cells)) if bytes_out]
    places = [
        f"target + (y + {row}) * {shape.target[1]} + (x + {column}) * {shape.target[2]} + o * {shape.target[0]}"
        for row, column in cells
    ]
    for number in range(outputs_at_once):
        finish.append(f"output = {outputs_at_once} * o + {number}")
        if fused:
            finish += [f"{name} = zero" for name in names[0]]
            finish.append("for e in range(load_int32(starts + 4 * output), load_int32(starts + 4 * output + 4)):")
            finish += indent(step)
        else:
            finish.append(f"slot = sums + load_int32(slots + 4 * output) * {slot_bytes}")
            finish += [f"{name} = load(slot + {p * shape.register})" for p, name in enumerate(names[0])]
            finish += [f"store(slot + {p * shape.register}, zero)" for p in range(many)]
        for cell, place in enumerate(places):
            largest, *others = names[0][cell * inside : (cell + 1) * inside]
            for name in others:
                largest = f"{'maximum' if shape.integer else 'maximum_float'}({largest}, {name})"
            if shape.integer:
                largest = f"to_float(add({largest}, broadcast(start + 4 * output)))"
                largest = f"multiply_float({largest}, broadcast(multiplier + 4 * output))"
            finish.append(f"value = add_float({largest}, broadcast(offset + 4 * output))")
            if bytes_out:
                level = f"minimum(maximum(to_int(value), splat({shape.lowest})), most)"
                finish.append(f"word{cell} = shift_in({level}, word{cell})")
            else:
                finish.append(f"store({place}, {'not_negative(value)' if shape.relu else 'value'})")
    finish += [f"store({place}, word{cell})" for cell, place in enumerate(places) if bytes_out]
    rows, columns = (-(-cells // tile) for cells, tile in zip(shape.cells, shape.tile, strict=True))
    lines = [
        *(f"{name} = piece(constants, {shape.first_piece + number})" for number, name in enumerate(PIECES)),
        "zero, most = splat(0), splat(255)",
        f"for tile_row in range({rows}):",
        f"    for tile_column in range({columns}):",
        # The last tiles reach back over cells that are done, rather than beyond the end.
        f"        y = {smaller(f'tile_row * {shape.tile[0]}', shape.cells[0] - shape.tile[0])}",
        f"        x = {smaller(f'tile_column * {shape.tile[1]}', shape.cells[1] - shape.tile[1])}",
        f"        here = source + y * {shape.pool[0] * shape.step[0]} + x * {shape.pool[1] * shape.step[1]}",
        *indent(multiply, 2),
        f"        for o in range({-(-shape.outputs // outputs_at_once)}):",
        *indent(finish, 3),
    ]
    doc = f"{shape.outputs} outputs, {shape.splits} splits, tile {shape.tile} cells, {shape.together} outputs together."
    return function(shape.name, "source, target, sums, constants", doc, lines)


def read_input(first: Buffer, image: Buffer | None, quantization: InputQuantization | None, shape: tuple) -> str:
    """The source of the function that reads a register of samples: into cells, quantised if the layers are of integers.

    Args:
        first: the input of the first layer.
        image: where a single channel goes before its quads are formed, or None.
        shape: (C, H, W) of a sample.
    """
    channels, height, width = shape
    inputs = channels * height * width
    read = [
        f"value = gather(x + 4 * ((channel * {height} + row) * {width} + column), {4 * inputs}, last)",
        "finite = add_float(finite, multiply_float(value, zero))",
    ]
    lines = ["zero, finite = splat(0), splat(0)"]
    if quantization is not None:
        lines += [
            f"inverse = splat_float(np.float32({float(quantization.inverse_scale)!r}))",
            "bound = splat_float(np.float32(512))",
            f"zero_point, most = splat({quantization.zero_point}), splat(255)",
        ]
        read += [
            "value = add(to_int(minimum_float(multiply_float(value, inverse), bound)), zero_point)",
            "value = minimum(maximum(value, zero), most)",
        ]
    loops = [f"for row in range({height}):", f"    for column in range({width}):"]
    cell = f"row * {first.row} + column * {first.cell}"
    if image is not None:
        rows, columns = image.plane // image.row, image.row // image.cell
        place = f"image + {image.first} + row * {image.row} + column * {image.cell}"
        lines += [*loops, *indent(["channel = 0", *read, f"store({place}, value)"], 2)]
        lines += [
            f"for row in range({rows}):",
            "    word = zero",
            f"    for column in range({columns}):",
            f"        word = shift_in(load(image + row * {image.row} + column * {image.cell}), word)",
            "        if column >= 3:",
            f"            store(target + row * {image.row} + (column - 3) * {image.cell}, word)",
            # What lies right of the image meets no weight.
            f"    for column in range({columns - 3}, {columns}):",
            "        word = shift_in(zero, word)",
            f"        store(target + row * {image.row} + column * {image.cell}, word)",
            f"for column in range({columns}):",
            "    word = zero",
            f"    for row in range({rows}):",
            f"        word = shift_in(load(image + row * {image.row} + column * {image.cell}), word)",
            "        if row >= 3:",
            f"            store(target + {image.plane} + (row - 3) * {image.row} + column * {image.cell}, word)",
        ]
    elif quantization is None:
        store = f"store(target + {first.first} + channel * {first.plane} + {cell}, value)"
        lines += [f"for channel in range({channels}):", *indent(loops), *indent([*read, store], 3)]
    else:
        block = [
            "word = zero",
            f"for channel in range(4 * block, min(4 * block + 4, {channels})):",
            *indent([*read, "word = shift_in(value, word)"]),
            # Channels that don't exist, so that those that do come down to the lowest bytes.
            f"for channel in range(max({channels} - 4 * block, 0), 4):",
            "    word = shift_in(zero, word)",
            f"store(target + {first.first} + block * {first.plane} + {cell}, word)",
        ]
        lines += [f"for block in range({-(-channels // 4)}):", *indent(loops), *indent(block, 3)]
    lines.append("return any_nonzero(finite)")
    doc = "Reads a register of samples, the last repeatedly if there are fewer; tells of values that are not finite."
    return function("read_input", "x, last, image, target", doc, lines)


class BatchBuilder:
    """Collects the kernels' sources, the constants and the workspace of a program, layer by layer."""

    def __init__(
        self,
        layers: Sequence[FloatLayer] | Sequence[IntegerLayer],
        quantization: InputQuantization | None,
        batch_size: int,
        instruction_set: InstructionSet,
    ):
        """Plan a program for layers all of float32 or, with a quantisation of the input, all of integers."""
        self.layers = layers
        self.instruction_set = instruction_set
        self._batch_size = batch_size
        self.integer = quantization is not None
        self.quantization = quantization
        self.constants = Constants()
        self.operations: list[Operations] = []
        self.cycles: list[float] = []  # estimated, per layer and sample
        self._fills: list[tuple[int, int, int]] = []
        self._size = 0
        self._functions: list[str] = []
        self._calls: list[str] = []
        check_layers(layers, quantization)
        if self.integer and any(layer.winners is not None for layer in layers):
            raise Unsupported("Winners are chosen sample by sample.")
        if not all(np.count_nonzero(layer.weight) for layer in layers):
            raise Unsupported("All weights of a layer are zero.")
        kinds = [layer.kind for layer in layers]
        self._first_linear = kinds.index("linear") if "linear" in kinds else len(layers)
        plain = layers[0].kind == "conv" and layers[0].dilation == (1, 1)
        self._by_quads = self.integer and plain and layers[0].input_shape[0] == 1
        self.buffers = [self._input_buffer(index) for index in range(len(layers))]
        self._final = self._final_buffer()
        self._image = self._quad_image() if self._by_quads else None
        for index in range(len(layers)):
            self._layer(index)
        shape = (*layers[0].input_shape, 1, 1)[:3]
        self._functions.append(read_input(self.buffers[0], self._image, quantization, shape))

    def _reserve(self, size: int) -> int:
        place = self._size
        self._size += round_up(size, CACHE_LINE)
        return place

    def _input_buffer(self, index: int) -> Buffer:
        layer = self.layers[index]
        channels, height, width = (*layer.input_shape, 1, 1)[:3]
        planes = (2 if self._by_quads and index == 0 else -(-channels // 4)) if self.integer else channels
        groups = GROUPS if index >= self._first_linear else 1
        padding = layer.padding if layer.kind == "conv" else (0, 0, 0, 0)
        fill = layer.input_zero_point if self.integer else 0
        buffer = Buffer(0, planes, height, width, padding, groups, fill, self.instruction_set.register)
        return self._placed(buffer)

    def _placed(self, buffer: Buffer) -> Buffer:
        # A linear layer's offsets may reach a group's last cell only; a quad's, one row of cells further.
        size = buffer.groups * buffer.group + 4 * buffer.cell
        place = self._reserve(size)
        self._fills.append((place, size, buffer.fill))
        return replace(buffer, place=place)

    def _final_buffer(self) -> Buffer:
        channels, height, width = (*self.layers[-1].output_shape, 1, 1)[:3]
        register = self.instruction_set.register
        return self._placed(Buffer(0, channels, height, width, (0, 0, 0, 0), GROUPS, 0, register))

    def _quad_image(self) -> Buffer:
        first = self.buffers[0]
        place = self._reserve(first.plane)
        return Buffer(place, 1, first.height, first.width, first.padding, 1, 0, first.cell)

    def _layer(self, index: int) -> None:
        layer, buffer, isa = self.layers[index], self.buffers[index], self.instruction_set
        last = index == len(self.layers) - 1
        target = self._final if last else self.buffers[index + 1]
        weights = sparse_weights(layer, buffer, self._by_quads and index == 0)
        outputs = round_up(len(layer.weight), 4)
        pool = layer.pool or (1, 1)
        if layer.kind == "conv":
            cells, together = layer.output_shape[1:], 1
            step = (layer.stride[0] * buffer.row, layer.stride[1] * buffer.cell)
            tile, splits, cycles = self._conv_tile(layer, buffer, len(weights.outputs))
            target_step = (target.plane, target.row, target.cell)
        else:
            cells, tile, together, splits = (1, GROUPS), (1, GROUPS), LINEAR_OUTPUTS, 1
            step = (0, buffer.group)
            cycles = len(weights.outputs) * 1.1 * (GROUPS + 2) / 2 / GROUPS
            if not self.integer:
                # A weight meets activations of each group: too many bytes for the first-level cache.
                cycles = len(weights.outputs) * (1 + GROUPS * max(1, isa.register / SECOND_LEVEL_SPEED)) / GROUPS
            target_step = (target.plane, 0, target.group)
        starts, entries, slots = pack_weights(weights, outputs, buffer.planes, splits, together)
        slots_filled = round_up(outputs, together)
        positions = tile[0] * tile[1] * pool[0] * pool[1]
        shape = Sparse(
            name=f"layer{index}",
            integer=self.integer,
            first_piece=len(self.constants.pieces),
            outputs=len(layer.weight) if not self.integer or layer.output_float else outputs,
            blocks=slots_filled // together,
            together=together,
            splits=splits,
            cells=cells,
            tile=tile,
            pool=pool,
            step=step,
            target=target_step,
            sums=self._reserve(slots_filled * positions * isa.register),
            relu=layer.relu,
            lowest=layer.output_zero_point if self.integer and layer.relu else 0,
            output_float=not self.integer or layer.output_float,
            register=isa.register,
        )
        self.constants.add(starts)
        self.constants.add(entries)
        self.constants.add(slots)
        start, multiplier = np.zeros(outputs, np.int32), np.ones(outputs, np.float32)
        offset = np.zeros(outputs, np.float32)
        if self.integer:
            total = layer.weight.astype(np.int64).reshape(len(layer.weight), -1).sum(axis=1)
            start[: len(total)] = isa.left_out(layer.weight) - layer.input_zero_point * total
            multiplier[: len(total)], offset[: len(total)] = layer.multiplier, layer.offset
        else:
            offset[: len(layer.bias)] = layer.bias
        for values in (start, multiplier, offset):
            self.constants.add(values)
        self._functions.append(sparse_layer(shape))
        sums = f"workspace + {shape.sums}"
        group = f" + g * {target.group}" if target.groups > 1 and layer.kind == "conv" else ""
        goes_to = f"workspace + {target.place + target.first}{group}"
        self._calls.append(f"{shape.name}(workspace + {buffer.place}, {goes_to}, {sums}, constants)")
        tiles = -(-cells[0] // tile[0]) * -(-cells[1] // tile[1])
        products = len(weights.outputs) * tiles * positions // isa.lanes // (GROUPS if layer.kind == "linear" else 1)
        self.operations.append(Operations(0, products, 0, entries.nbytes))
        # A register costs the same, however many samples are in it; so do those that a linear layer computes together.
        together = isa.lanes * (GROUPS if layer.kind == "linear" else 1)
        filled = self._batch_size / round_up(self._batch_size, together)
        self.cycles.append(cycles / isa.lanes / filled)

    def _conv_tile(
        self, layer: FloatLayer | IntegerLayer, buffer: Buffer, weights: int
    ) -> tuple[tuple[int, int], int, float]:
        """The tile and the number of splits of least estimated cycles (per register of samples), and these."""
        cells, pool, outputs = layer.output_shape[1:], layer.pool or (1, 1), len(layer.weight)
        kernel = layer.weight.shape[2:]
        best = None
        for rows, columns in product(range(1, cells[0] + 1), range(1, cells[1] + 1)):
            positions = rows * columns * pool[0] * pool[1]
            if positions > self.instruction_set.accumulators:
                continue
            window = [
                (count * pool[i] - 1) * layer.stride[i] + (kernel[i] - 1) * layer.dilation[i] + 1
                for i, count in enumerate((rows, columns))
            ]
            size = buffer.planes * window[0] * window[1] * buffer.cell
            splits = min(buffer.planes, -(-size // SPLIT_BYTES))
            tiles = -(-cells[0] // rows) * -(-cells[1] // columns)
            one = self.instruction_set.dot_cycles if self.integer else self.instruction_set.multiply_add_cycles
            multiply = weights * max(positions * one + 1, 5)
            # Sums are loaded and stored once per split, and once more in the end.
            wait = outputs * positions * 1.5 * (splits + 1) + 10 * outputs * splits
            cycles = tiles * (multiply + wait + size / 40)
            if best is None or cycles < best[2]:
                best = (rows, columns), splits, cycles
        if best is None:
            raise Unsupported("The pool is too large for a tile.")
        return best

    def workspace(self) -> np.ndarray:
        workspace = np.zeros(self._size, np.uint8)
        for place, size, fill in self._fills:
            workspace[place : place + size] = fill
        if self._image is not None:
            # A byte per doubleword, where quads put four of them together.
            image = workspace[self._image.place : self._image.place + self._image.plane].view(np.uint32)
            image[:] = self.quantization.zero_point
        return workspace

    def text(self) -> str:
        """The source of the module: `run` is the program, `repeat` runs one part of it, to be timed."""
        shapes, lanes = (self.layers[0].input_shape, self.layers[-1].output_shape), self.instruction_set.lanes
        inputs, outputs = (int(np.prod(shape)) for shape in shapes)
        image = f"workspace + {self._image.place}" if self._image is not None else "0"
        first = self.buffers[0]
        group = f" + g * {first.group}" if first.groups > 1 else ""
        reading = [
            f"place = x_place + {4 * inputs} * (begin + {lanes} * g)",
            f"last = min({lanes}, inside - {lanes} * g) - 1",
            f"bad |= read_input(place, last, {image}, workspace + {first.place}{group})",
        ]
        convolutions, others = self._calls[: self._first_linear], self._calls[self._first_linear :]
        chunk = lanes * GROUPS
        groups = f"for g in range((inside + {lanes - 1}) // {lanes}):"
        body = [
            f"for begin in range(0, samples, {chunk}):",
            f"    inside = min({chunk}, samples - begin)",
            f"    {groups}",
            *indent([*reading, *convolutions], 2),
            *indent(others),
            "    for s in range(inside):",
            f"        cells = workspace + {self._final.place} + s // {lanes} * {self._final.group}",
            f"        for o in range({outputs}):",
            f"            value = load_float(cells + {self._final.cell} * o + 4 * (s % {lanes}))",
            f"            store_float(out_place + 4 * ({outputs} * (begin + s) + o), value)",
        ]
        run = run_function(*(1 + len(shape) for shape in shapes), body)
        parts = [(0, [groups, *indent(reading)])]
        for number, call in enumerate(self._calls):
            parts.append((number + 2, [call] if number >= self._first_linear else [groups, "    " + call]))
        repeat = repeat_function(chunk, parts)
        functions = PIECE + "".join(self._functions)
        return "\n".join([header(self.instruction_set) + functions, "", *run, "", "", *repeat, ""])

    def program(self) -> CompiledProgram:
        kernel = f"unstructured, {self.instruction_set.name}"
        return CompiledProgram(
            self.text(),
            self.constants,
            self.workspace(),
            [kernel] * len(self.layers),
            self.operations,
            self.cycles,
            self.instruction_set.lanes * GROUPS,
        )

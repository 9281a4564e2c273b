"""Programs that take one sample after the other through float32 layers, for batches too small to fill registers.

Here the lanes of a register are neighbouring positions of a row. A convolution's kernel walks the list of an output's
non-zero weights and multiplies each with whole rows of the input, shifted; the sums of a tile stay in registers
meanwhile, then wait in memory for the pool. A linear layer has no rows: it multiplies value by value, or, where few of
its weights are zero, all weights of as many outputs as a register has lanes.

Activations are float32 [channel, row, column] with zeros around, and rows may be read beyond their ends: what a
register holds there is never used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dualsparse.layers import FloatLayer

from .compilation import CompiledProgram, Constants, Operations, Unsupported, check_layers
from .instruction_sets import InstructionSet
from .integer_kernels import PIECE, function, header, indent, repeat_function, run_function, smaller
from .weight_layout import CACHE_LINE, in_lanes, output_order, round_up

#: Cycles of one weight of a linear layer: three loads, one of which depends on another.
CYCLES_PER_WEIGHT = 1.3
#: Bytes per cycle of weights from the second-level cache, and of those that don't fit it.
NEAR_SPEED, FAR_SPEED, NEAR_BYTES = 32, 10, 768 * 1024
#: Partial sums of an output of a linear layer, because an addition has to wait for the one before.
PARTS = 4


@dataclass(frozen=True)
class Image:
    """Where the activations between two layers lie in the workspace."""

    place: int
    channels: int
    height: int
    width: int
    padding: tuple[int, int, int, int]  # top, left, bottom, right

    @property
    def row(self) -> int:
        """Bytes from row to row."""
        return 4 * (self.width + self.padding[1] + self.padding[3])

    @property
    def plane(self) -> int:
        return (self.height + self.padding[0] + self.padding[2]) * self.row

    @property
    def first(self) -> int:
        """The address of the first value that isn't padding, in the workspace."""
        return self.place + self.padding[0] * self.row + self.padding[1] * 4


@dataclass(frozen=True)
class FloatConvolution:
    """The shape of a convolution's kernel. Its sums are units of whole registers: rows, or one register of a run over
    all rows, what lies between these included."""

    name: str
    first_piece: int
    outputs: int
    register: int
    units: int
    unit_registers: int
    unit_step: int  # bytes of the input from unit to unit
    tile: int  # units whose sums are in registers at the same time
    sums: int  # place in the workspace
    sums_row: int  # bytes of the sums from row to row
    pool: tuple[int, int]
    cells: tuple[int, int]  # pooled output: rows, columns
    target: tuple[int, int]  # bytes of the output from plane to plane, from row to row
    relu: bool


def float_convolution(conv: FloatConvolution) -> str:
    """The source of a convolution's kernel."""
    register, lanes = conv.register, conv.register // 4
    unit_bytes = conv.unit_registers * register
    names = [
        (f"a{u}_{r}", u * conv.unit_step + r * register, u * unit_bytes + r * register)
        for u in range(conv.tile)
        for r in range(conv.unit_registers)
    ]
    tiles = -(-conv.units // conv.tile)
    multiply = [
        f"unit = {smaller(f'tile * {conv.tile}', conv.units - conv.tile)}",
        f"here, place = source + unit * {conv.unit_step}, sums + unit * {unit_bytes}",
        *(f"{name} = splat(0)" for name, _, _ in names),
        "for e in range(first, last):",
        "    there, weight = here + load_int32(entries + 8 * e), broadcast(entries + 8 * e + 4)",
        *(f"    {name} = multiply_add(load(there + {distance}), weight, {name})" for name, distance, _ in names),
        *(f"store(place + {distance}, {name})" for name, _, distance in names),
    ]
    rows, columns = conv.cells
    corner = f"sums + row * {conv.pool[0] * conv.sums_row}"
    if conv.pool[1] in (1, 2):
        parts = []
        for part in range(conv.pool[1]):
            place = f"{corner} + column * {4 * conv.pool[1]} + {part * register}"
            value = f"load({place})"
            for below in range(1, conv.pool[0]):
                value = f"maximum_float({value}, load({place} + {below * conv.sums_row}))"
            parts.append(value)
        largest = parts[0] if len(parts) == 1 else f"larger_of_neighbours({', '.join(parts)})"
        relu = "not_negative(value)" if conv.relu else "value"
        pooling = [
            f"    for column in range(0, {columns}, {lanes}):",
            f"        value = add_float({largest}, shift)",
            # Zeros behind the end of a row: padding, or what the next row writes afterwards.
            f"        store(out + row * {conv.target[1]} + 4 * column, first_lanes({relu}, {columns} - column))",
        ]
    else:
        pooling = [
            f"    for column in range({columns}):",
            f"        largest = load_float({corner} + column * {4 * conv.pool[1]})",
            f"        for below in range({conv.pool[0]}):",
            f"            for right in range({conv.pool[1]}):",
            f"                place = {corner} + below * {conv.sums_row} + 4 * right",
            f"                other = load_float(place + column * {4 * conv.pool[1]})",
            "                largest = other if other > largest else largest",
            "        largest += load_float(bias + 4 * o)",
            *(["        largest = largest if largest > 0 else np.float32(0)"] if conv.relu else []),
            f"        store_float(out + row * {conv.target[1]} + 4 * column, largest)",
        ]
    lines = [
        f"starts, entries = piece(constants, {conv.first_piece}), piece(constants, {conv.first_piece + 1})",
        f"bias = piece(constants, {conv.first_piece + 2})",
        f"for o in range({conv.outputs}):",
        "    first, last = load_int32(starts + 4 * o), load_int32(starts + 4 * o + 4)",
        f"    for tile in range({tiles}):",
        *indent(multiply, 2),
        f"    out, shift = target + o * {conv.target[0]}, broadcast(bias + 4 * o)",
        f"    for row in range({rows}):",
        *indent(pooling),
    ]
    doc = f"Convolution of {conv.outputs} outputs, pool {conv.pool}, tile of {len(names)} registers."
    return function(conv.name, "source, sums, target, constants", doc, lines)


def sparse_linear(name: str, first_piece: int, outputs: int, relu: bool) -> str:
    """The source of a linear layer's kernel that reads the weights that aren't zero, as many as `PARTS` at a time."""
    step = [f"entry = entries + {8 * PARTS} * e"]
    for part in range(PARTS):
        value = f"load_float(source + load_int32(entry + {8 * part}))"
        step.append(f"s{part} += {value} * load_float(entry + {8 * part + 4})")
    lines = [
        f"starts, entries = piece(constants, {first_piece}), piece(constants, {first_piece + 1})",
        f"bias = piece(constants, {first_piece + 2})",
        f"for o in range({outputs}):",
        *(f"    s{part} = np.float32(0)" for part in range(PARTS)),
        "    for e in range(load_int32(starts + 4 * o), load_int32(starts + 4 * o + 4)):",
        *indent(step, 2),
        f"    value = {' + '.join(f's{part}' for part in range(PARTS))} + load_float(bias + 4 * o)",
        *(["    value = value if value > 0 else np.float32(0)"] if relu else []),
        "    store_float(target + 4 * o, value)",
    ]
    doc = f"Linear layer of {outputs} outputs, sparse."
    return function(name, "source, target, constants", doc, lines)


def dense_linear(name: str, first_piece: int, inputs: int, blocks: int, groups: int, register: int, relu: bool) -> str:
    """The source of a linear layer's kernel that reads all weights: of each input those of a block of outputs."""
    block = groups * register
    sums = [f"a{group}" for group in range(groups)]
    lines = [
        f"data, bias = piece(constants, {first_piece}), piece(constants, {first_piece + 1})",
        f"for block in range({blocks}):",
        *(f"    {name} = load(bias + block * {block} + {g * register})" for g, name in enumerate(sums)),
        f"    place = data + block * {inputs * block}",
        f"    for i in range({inputs}):",
        f"        value, there = broadcast(source + 4 * i), place + i * {block}",
        *(f"        {name} = multiply_add(value, load(there + {g * register}), {name})" for g, name in enumerate(sums)),
        *(
            f"    store(target + block * {block} + {g * register}, {f'not_negative({name})' if relu else name})"
            for g, name in enumerate(sums)
        ),
    ]
    doc = f"Linear layer of {inputs} inputs, {blocks} blocks of {block // 4} outputs, dense."
    return function(name, "source, target, constants", doc, lines)


def read_image(image: Image, lanes: int) -> str:
    """The source of the function that copies a sample to where the first layer reads it."""
    rows, width = image.channels * image.height, image.width
    if not any(image.padding):
        rows, width = 1, rows * width
    whole = width // lanes * lanes
    place = "target"
    if rows > 1:
        place += f" + row // {image.height} * {image.plane} + row % {image.height} * {image.row}"
    lines = [
        "finite, rest, zero = splat(0), np.float32(0), splat(0)",
        f"for row in range({rows}):",
        f"    here, there = x + row * {4 * width}, {place}",
        f"    for column in range(0, {whole}, {lanes}):",
        "        value = load(here + 4 * column)",
        "        finite = add_float(finite, multiply_float(value, zero))",
        "        store(there + 4 * column, value)",
        f"    for column in range({whole}, {width}):",
        "        single = load_float(here + 4 * column)",
        "        rest += single * np.float32(0)",
        "        store_float(there + 4 * column, single)",
        "return any_nonzero(finite) or rest != 0",
    ]
    doc = "Copies a sample, and tells whether it holds a value that is not finite."
    return function("read_input", "x, target", doc, lines)


class FloatBuilder:
    """Collects the kernels' sources, the constants and the workspace of a program, layer by layer."""

    def __init__(self, layers: Sequence[FloatLayer], instruction_set: InstructionSet):
        self.layers = layers
        self.instruction_set = instruction_set
        self.constants = Constants()
        self.kernels: list[str] = []
        self.operations: list[Operations] = []
        self.cycles: list[float] = []  # estimated, per layer and sample
        self._functions: list[str] = []
        self._calls: list[str] = []
        self._size = 0
        check_layers(layers, None)
        self._images = [self._image(layer.input_shape, layer) for layer in layers]
        self._images.append(self._image(layers[-1].output_shape, None))
        for index, layer in enumerate(layers):
            if layer.kind == "conv":
                self._convolution(index)
            else:
                self._linear(index)
        self._functions.append(read_image(self._images[0], instruction_set.lanes))

    def _reserve(self, size: int) -> int:
        """A place in the workspace with room behind it for registers that reach over the end."""
        place = self._size
        self._size += round_up(size + 8 * self.instruction_set.register, CACHE_LINE)
        return place

    def _image(self, shape: tuple[int, ...], layer: FloatLayer | None) -> Image:
        channels, height, width = (*shape, 1, 1)[:3]
        padding = layer.padding if layer is not None and layer.kind == "conv" else (0, 0, 0, 0)
        image = Image(0, channels, height, width, padding)
        # A dense linear layer writes whole blocks of outputs.
        size = channels * image.plane if height * width > 1 else 4 * round_up(channels, 256)
        return Image(self._reserve(size), channels, height, width, padding)

    def _convolution(self, index: int) -> None:
        layer, isa = self.layers[index], self.instruction_set
        image, target = self._images[index : index + 2]
        if layer.stride[1] != 1:
            raise Unsupported("Neighbours of a row have to be neighbours in the input.")
        pool = layer.pool or (1, 1)
        height, width = (cells * size for cells, size in zip(layer.output_shape[1:], pool, strict=True))
        by_row, in_run = -(-width // isa.lanes), -(-((height - 1) * image.row // 4 + width) // isa.lanes)
        if layer.stride[0] == 1 and in_run <= height * by_row:
            units, unit_registers, unit_step, sums_row = in_run, 1, isa.register, image.row
        else:
            units, unit_registers = height, by_row
            unit_step, sums_row = layer.stride[0] * image.row, by_row * isa.register
        if unit_registers > isa.accumulators:
            raise Unsupported("A row is longer than a tile.")
        tiles = -(-units * unit_registers // isa.accumulators)
        tile = -(-units // tiles)
        while tile * unit_registers > isa.accumulators:
            tile -= 1
        output, channel, row, column = np.nonzero(layer.weight)
        entries = np.zeros((len(output), 2), np.int32)
        entries[:, 0] = channel * image.plane
        entries[:, 0] += row * layer.dilation[0] * image.row + column * layer.dilation[1] * 4
        entries[:, 1] = layer.weight[output, channel, row, column].astype(np.float32).view(np.int32)
        first = self.constants.add(np.searchsorted(output, np.arange(len(layer.weight) + 1)).astype(np.int32))
        self.constants.add(entries)
        self.constants.add(layer.bias.astype(np.float32))
        conv = FloatConvolution(
            name=f"layer{index}",
            first_piece=first,
            outputs=len(layer.weight),
            register=isa.register,
            units=units,
            unit_registers=unit_registers,
            unit_step=unit_step,
            tile=tile,
            sums=self._reserve(max(units * unit_registers * isa.register, height * sums_row)),
            sums_row=sums_row,
            pool=pool,
            cells=layer.output_shape[1:],
            target=(target.plane, target.row),
            relu=layer.relu,
        )
        self._functions.append(float_convolution(conv))
        source = f"workspace + {image.place}"
        self._calls.append(f"{conv.name}({source}, workspace + {conv.sums}, workspace + {target.first}, constants)")
        self.kernels.append("unstructured")
        registers = -(-units // tile) * tile * unit_registers
        products = len(output) * registers
        # A register that crosses a cache line takes two loads.
        self.cycles.append(products * 1.3 * isa.multiply_add_cycles + len(layer.weight) * registers * 6)
        self.operations.append(Operations(0, products, len(layer.weight) * registers * 4, entries.nbytes))

    def _linear(self, index: int) -> None:
        layer, isa = self.layers[index], self.instruction_set
        outputs, inputs = layer.weight.shape
        groups = min(8, -(-outputs // isa.lanes))
        order = output_order(outputs, groups, isa.lanes, packed=False)
        size = order.size * inputs * 4
        speed = NEAR_SPEED if size <= NEAR_BYTES else FAR_SPEED
        # With few sums, each addition waits for the one before.
        dense = max(order.size // isa.lanes * inputs * max(0.5, 4 / groups), size / speed)
        sparse = np.count_nonzero(layer.weight) * CYCLES_PER_WEIGHT + outputs * 10
        source, target = (f"workspace + {self._images[i].place}" for i in (index, index + 1))
        name, first = f"layer{index}", len(self.constants.pieces)
        if dense <= sparse:
            lanes = in_lanes(layer.weight.astype(np.float32), order)  # [blocks, groups, lanes, inputs]
            self.constants.add(np.ascontiguousarray(lanes.transpose(0, 3, 1, 2)))
            self.constants.add(in_lanes(layer.bias.astype(np.float32), order))
            text = dense_linear(name, first, inputs, order.shape[0], groups, isa.register, layer.relu)
            self.operations.append(Operations(0, order.size // isa.lanes * inputs, 0, size))
        else:
            output, place = np.nonzero(layer.weight)
            counts = np.bincount(output, minlength=outputs)
            steps = -(-counts // PARTS)
            starts = np.concatenate([[0], np.cumsum(steps)])
            number = np.arange(len(output)) - np.repeat(np.cumsum(counts) - counts, counts)
            entries = np.zeros((starts[-1] * PARTS, 2), np.int32)
            entries[starts[output] * PARTS + number, 0] = 4 * place
            values = layer.weight[output, place].astype(np.float32)
            entries[starts[output] * PARTS + number, 1] = values.view(np.int32)
            for piece in (starts.astype(np.int32), entries, layer.bias.astype(np.float32)):
                self.constants.add(piece)
            text = sparse_linear(name, first, outputs, layer.relu)
            self.operations.append(Operations(0, len(entries), 0, entries.nbytes))
        self._functions.append(text)
        self._calls.append(f"{name}({source}, {target}, constants)")
        self.kernels.append("dense" if dense <= sparse else "unstructured")
        self.cycles.append(float(min(dense, sparse)))

    def workspace(self) -> np.ndarray:
        """The initial content of a workspace: the padding is zeros, and stays so."""
        return np.zeros(self._size, np.uint8)

    def text(self) -> str:
        """The source of the module: `run` is the program, `repeat` runs one part of it, to be timed."""
        shapes = (self.layers[0].input_shape, self.layers[-1].output_shape)
        inputs, outputs = (int(np.prod(shape)) for shape in shapes)
        reading = [f"bad |= read_input(x_place + {4 * inputs} * s, workspace + {self._images[0].first})"]
        final = self._images[-1].place
        body = [
            "for s in range(samples):",
            *indent(reading + self._calls),
            f"    for o in range({outputs}):",
            f"        store_float(out_place + 4 * ({outputs} * s + o), load_float(workspace + {final} + 4 * o))",
        ]
        run = run_function(*(1 + len(shape) for shape in shapes), body)
        loop = "for s in range(inside):"
        parts = [(0, [loop, *indent(reading)])]
        parts += [(number + 2, [loop, "    " + call]) for number, call in enumerate(self._calls)]
        functions = PIECE + "".join(self._functions)
        repeat = repeat_function(1, parts)
        return "\n".join([header(self.instruction_set) + functions, "", *run, "", "", *repeat, ""])

    def program(self) -> CompiledProgram:
        kernels = [f"{kernel}, {self.instruction_set.name}" for kernel in self.kernels]
        return CompiledProgram(
            self.text(), self.constants, self.workspace(), kernels, self.operations, self.cycles, chunk=1
        )

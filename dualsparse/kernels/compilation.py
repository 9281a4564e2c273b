"""What all programs have in common: their constants, their compiled module and its cache, and how they are called."""

import functools
import hashlib
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import ModuleType

import llvmlite
import numba
import numpy as np

from dualsparse.caching import source_directory
from dualsparse.layers import FloatLayer, InputQuantization, IntegerLayer

from .weight_layout import CACHE_LINE, round_up


class Unsupported(Exception):
    """A sequence of layers has no fast program; the message says why."""


def check_layers(layers: Sequence[FloatLayer] | Sequence[IntegerLayer], quantization: InputQuantization | None) -> None:
    """Refuse what no kernel can do, or can't do exactly."""
    for index, layer in enumerate(layers):
        if layer.groups != 1:
            raise Unsupported("Grouped convolutions have no kernel.")
        if layer.kind == "conv" and index and layers[index - 1].kind == "linear":
            raise Unsupported("A convolution follows a linear layer.")
        if quantization is None:
            continue
        if layer.output_float != (index == len(layers) - 1):
            raise Unsupported("Float output is for the last layer.")
        # Also of the sums that begin with minus the zero point times all weights.
        largest = np.abs(layer.weight.astype(np.int64)).reshape(len(layer.weight), -1).sum(axis=1) * 255 * 2
        if largest.max(initial=0) >= 2**31:
            raise Unsupported("Sums may overflow.")
        if not layer.output_float:
            outputs = largest * np.abs(layer.multiplier.astype(np.float64)) + np.abs(layer.offset)
            if outputs.max(initial=0) >= 2**31:
                raise Unsupported("Outputs may not fit 32 bits.")
        zero_point = layers[index - 1].output_zero_point if index else quantization.zero_point
        if zero_point != layer.input_zero_point:
            raise Unsupported("Zero points of neighbours differ.")


def aligned(content: np.ndarray) -> np.ndarray:
    """A copy of uint8 `content` that begins at a cache line: registers that cross lines cost twice."""
    memory = np.empty(len(content) + CACHE_LINE, np.uint8)
    skipped = -memory.ctypes.data % CACHE_LINE
    copy = memory[skipped : skipped + len(content)]
    copy[:] = content
    return copy


@dataclass
class Constants:
    """Arrays that become one block of memory, behind the table of their distances from its start."""

    pieces: list[np.ndarray] = field(default_factory=list)

    def add(self, array: np.ndarray) -> int:
        """The number of the new piece."""
        self.pieces.append(np.ascontiguousarray(array))
        return len(self.pieces) - 1

    def blob(self) -> np.ndarray:
        place = round_up(8 * len(self.pieces), CACHE_LINE)
        table, content = np.zeros(place // 8, np.int64), []
        for number, piece in enumerate(self.pieces):
            table[number] = place
            padding = np.zeros(-piece.nbytes % CACHE_LINE, np.uint8)
            content += [piece.reshape(-1).view(np.uint8), padding]
            place += piece.nbytes + len(padding)
        return aligned(np.concatenate([table.view(np.uint8), *content]))


@dataclass(frozen=True)
class Operations:
    """What a layer asks of the processor, per sample."""

    permutations: int  # registers of picked channels
    products: int  # registers of four products each, or float32 multiply-add
    others: int  # instructions of pooling and requantisation
    weight_bytes: int  # read once per sample or, by a linear layer, once per chunk


class CompiledProgram:
    """Layers, compiled for one CPU. Calls share only what they read; see `dualsparse.layers.Program`.

    Attributes:
        kernels: per layer, what runs it.
        operations: per layer, what it takes per sample, if no column is left out.
        cycles: per layer, what it should take per sample, if no column is left out: an estimate.
        chunk: how many samples go through all layers together.
    """

    def __init__(
        self,
        source: str,
        constants: Constants,
        workspace: np.ndarray,
        kernels: Sequence[str],
        operations: Sequence[Operations],
        cycles: Sequence[float],
        chunk: int,
    ):
        """Compile `source`, whose `run` computes all and whose `repeat` computes one part again and again.

        Args:
            workspace: uint8, the initial content of the memory that a call needs.
        """
        self.kernels, self.operations, self.cycles, self.chunk = kernels, operations, cycles, chunk
        module = load_module(source)
        self._run, self._repeat = module.run, module.repeat
        # Called directly, compiled code saves the comparison of its arguments' types with its only signature's.
        (compiled,) = module.run.overloads.values()
        self._enter = compiled.entry_point
        self._constants = constants.blob()
        self._constants_address = self._constants.ctypes.data
        self._initial_workspace = workspace
        self._local = threading.local()

    def __call__(self, x: np.ndarray, out: np.ndarray) -> int:
        try:
            workspace = self._local.address
        except AttributeError:
            workspace = self._make_workspace()
        return self._enter(x, out, workspace, self._constants_address, 0)

    def server(self, slot: int) -> Callable[[], None]:
        """Return what a thread calls to run samples posted to a slot (see `handover`), until none come for a while."""
        memory = aligned(self._initial_workspace)
        run, constants = self._run, self._constants
        nothing = [np.empty((0,) * array.ndim, np.float32) for array in run.nopython_signatures[0].args[:2]]

        def serve() -> None:
            run(*nothing, memory.ctypes.data, constants.ctypes.data, slot)

        return serve

    def _make_workspace(self) -> int:
        """The address of a workspace for the calling thread."""
        self._local.memory = aligned(self._initial_workspace)
        self._local.address = self._local.memory.ctypes.data
        return self._local.address

    def part_seconds(self, x: np.ndarray, out: np.ndarray, times: int = 20) -> list[float]:
        """Time each part by itself, repeated `times` times on what a run on x leaves in the workspace.

        Returns:
            Seconds per sample: of reading the input, of the gate (near zero if there is none), then of each layer. The
            branches that depend on the input repeat, so that a gate's layers are a little flattered.
        """
        self(x, out)
        seconds = []
        for number in range(len(self.kernels) + 2):
            self._repeat(number, 1, x, self._local.address, self._constants_address)
            start = perf_counter()
            self._repeat(number, times, x, self._local.address, self._constants_address)
            seconds.append((perf_counter() - start) / times / min(self.chunk, len(x)))
        return seconds

    def layer_seconds(self, x: np.ndarray, out: np.ndarray) -> list[float]:
        """The seconds that each layer takes for all of x; the first one's are those of the input and the gate, too."""
        reading, gating, *layers = self.part_seconds(x, out)
        layers[0] += reading + gating
        return [seconds * len(x) for seconds in layers]


@functools.cache
def load_module(source: str) -> ModuleType:
    """The module of a generated source, compiled on first use.

    Its name is a hash of everything that its code depends on, so that a stale file is never met.
    """
    here = Path(__file__).parent
    imported = [here / "registers.py", here / "handover.py", *sorted((here / "instruction_sets").glob("*.py"))]
    # Numba itself keeps apart what it compiles for different processors.
    parts = [source, *(file.read_text() for file in imported), numba.__version__, llvmlite.__version__]
    name = "program_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    directory = source_directory(os.environ.get("DUALSPARSE_CACHE"))
    if directory is None:
        module = ModuleType(name)
        sys.modules[name] = module
        exec(source.replace(", cache=True", ""), module.__dict__)
        return module
    path = directory / f"{name}.py"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=directory, suffix=".tmp", delete=False) as file:
            file.write(source)
        os.replace(file.name, path)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

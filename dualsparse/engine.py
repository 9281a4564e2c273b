"""The engine: a model, made ready for one batch size and a number of threads."""

import math
import os
import sys
import weakref
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy import empty, ndarray

from dualsparse.errors import InvalidInputError
from dualsparse.kernels import CompiledProgram, compile_program
from dualsparse.kernels.instruction_sets import INSTRUCTION_SETS, InstructionSet, best_instruction_set
from dualsparse.layers import FloatLayer, IntegerLayer, Program
from dualsparse.onnx_import import import_onnx
from dualsparse.operators import OPERATORS
from dualsparse.patterns import Pattern, recognise
from dualsparse.plan import LayerStep, Plan, make_plan
from dualsparse.portable import PortableProgram, k_winners
from dualsparse.workers import Team, Workers

FLOAT32 = np.dtype(np.float32)
#: The environment variable that names the instruction set where the program doesn't.
INSTRUCTION_SET_VARIABLE = "DUALSPARSE_INSTRUCTION_SET"


@dataclass(frozen=True)
class LayerReport:
    """What `Engine.layers` tells about one fused layer."""

    name: str
    kind: str
    precision: str  # int8 or fp32
    pattern: Pattern
    kernel: str
    macs: int  # multiplications per sample of a dense layer
    remaining_macs: int  # those with non-zero weights, in computed columns; by events, of active inputs
    estimated_us: float  # per sample, from the cycles that the plan expects, at 3 GHz
    measured_us: float | None  # per sample, on random inputs; None if the program can't be split


class Engine:
    """A network ready to run. `run` may be called from several threads at the same time."""

    def __init__(self, plan: Plan, threads: int = 1, instruction_set: str | None = None) -> None:
        """Prepare `plan`; see `from_onnx`."""
        if not isinstance(threads, int) or threads < 1:
            raise InvalidInputError(f"threads = {threads!r}, expected a positive whole number")
        chosen = _choose_instruction_set(instruction_set)
        self.plan = plan
        self.batch_size = plan.batch_size
        self.input_shape = (plan.batch_size, *plan.shapes[plan.input])
        self.output_shape = (plan.batch_size, *plan.shapes[plan.output])
        self._chunks = _split(plan.batch_size, threads)
        self.threads = len(self._chunks)
        largest = max(stop - start for start, stop in self._chunks)
        self._programs = [
            _make_program(step, largest, chosen) if isinstance(step, LayerStep) else None for step in plan.steps
        ]
        fast = any(isinstance(program, CompiledProgram) for program in self._programs)
        self._instruction_set = chosen.title if fast else "portable"
        # A network that is one program is nothing but this program.
        self._run_samples = self._programs[0] if _is_whole(plan) else self._run_steps
        self._start_threads()
        _ENGINES.add(self)

    def _start_threads(self) -> None:
        """Start the threads that compute beside the calling one."""
        self._run_batch, self._workers = self._run_samples, None
        if self.threads > 1 and isinstance(self._run_samples, CompiledProgram) and sys.platform == "linux":
            self._run_batch = Team(self._run_samples, self._chunks)
        elif self.threads > 1:
            self._run_batch, self._workers = self._run_chunks, Workers(self.threads - 1)

    @classmethod
    def from_onnx(
        cls, path: Path | str, batch_size: int | None = None, threads: int = 1, instruction_set: str | None = None
    ) -> "Engine":
        """Load a float32 or QDQ INT8 ONNX model.

        Args:
            batch_size: samples per call; None takes it from the file, or 1 if the file leaves it open.
            threads: how many threads share a batch (never more than samples).
            instruction_set: what the kernels may use: avx512_vbmi, avx512_vnni, avx_vnni, avx2, neon_i8mm, neon, or
                portable, which runs everywhere. None takes the environment variable DUALSPARSE_INSTRUCTION_SET or,
                without it, the best that Numba compiles for: its settings count (NUMBA_CPU_FEATURES, ...), not only
                the CPU.

        Raises:
            InvalidModelError: the file is no valid ONNX model.
            UnsupportedModelError: the model holds something that cannot run; names the node.
            InvalidInputError: a setting is wrong, or contradicts the file or the CPU.
            OSError: the file cannot be read.
        """
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise InvalidInputError(f"batch_size = {batch_size!r}, expected a positive whole number")
        return cls(make_plan(import_onnx(path, batch_size)), threads, instruction_set)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Return the output, float32 `output_shape`, for x, float32 `input_shape`.

        Raises:
            InvalidInputError: x is no float32 array of the right shape, or holds a value that is not finite.
        """
        # At batch 1 a whole network takes microseconds: every line here counts.
        if not isinstance(x, ndarray) or x.dtype != FLOAT32 or x.shape != self.input_shape:
            found = f"{x.dtype} {x.shape}" if isinstance(x, ndarray) else type(x).__name__
            raise InvalidInputError(f"input {found}, expected a float32 array of the shape {self.input_shape}")
        if not x.flags.c_contiguous:
            x = np.ascontiguousarray(x)
        out = empty(self.output_shape, FLOAT32)
        status = self._run_batch(x, out)
        if status:
            what = "the input holds a value" if status == 1 else "the input leads to an activation"
            raise InvalidInputError(f"{what} that is not finite")
        return out

    def _run_after_fork(self, x: np.ndarray, out: np.ndarray) -> int:
        """Run the first batch in a process that was forked: it has none of its parent's threads."""
        self._start_threads()
        return self._run_batch(x, out)

    def _run_chunks(self, x: np.ndarray, out: np.ndarray) -> int:
        """Share a batch with the workers; return what `_run_steps` does."""
        (start, stop), *others = self._chunks
        jobs = [self._workers.submit(self._run_samples, x[a:b], out[a:b]) for a, b in others]
        status = self._run_samples(x[start:stop], out[start:stop])
        return max([status, *(job.result() for job in jobs)])

    def _run_steps(self, x: np.ndarray, out: np.ndarray) -> int:
        """Run some samples of a batch; return 0, or 1 (2) if a value in x (an activation) is not finite."""
        if not np.isfinite(x).all():
            return 1
        values = {self.plan.input: x}
        for step, program in zip(self.plan.steps, self._programs, strict=True):
            if program is None:
                operator = k_winners if step.node.op == "KWinners" else OPERATORS[step.node.op]
                with np.errstate(all="ignore"):
                    y = operator([values[name] for name in step.node.inputs], step.node.attributes)
            else:
                # 1-D images and views have another shape in the plan than in the layers, and the same values.
                source = np.ascontiguousarray(values[step.input]).reshape(-1, *step.layers[0].input_shape)
                y = np.empty((len(x), *step.layers[-1].output_shape), np.float32)
                if program(source, y):
                    return 2
                y = y.reshape(-1, *self.plan.shapes[step.output])
            values[step.output] = y
        out[:] = values[self.plan.output]
        return 0

    @property
    def precision(self) -> str:
        """Of the layers with weights: int8, fp32, or mixed."""
        found = {_precision(layer) for step in self.plan.steps if isinstance(step, LayerStep) for layer in step.layers}
        return found.pop() if len(found) == 1 else "mixed" if found else "fp32"

    @property
    def instruction_set(self) -> str:
        """What the layers with weights run with; portable if none has a fast kernel."""
        return self._instruction_set

    @property
    def kernels(self) -> list[str]:
        """The kernel of each fused layer, in order."""
        return [kernel for program in self._programs if program is not None for kernel in program.kernels]

    def layers(self, measure: bool = True) -> list[LayerReport]:
        """Describe the fused layers, in order.

        Args:
            measure: also time every layer, on one thread and random inputs, for a fraction of a second.
        """
        reports = []
        for step, program in zip(self.plan.steps, self._programs, strict=True):
            if program is None:
                continue
            seconds = self._layer_seconds(step, program) if measure else [None] * len(step.layers)
            for index, layer in enumerate(step.layers):
                gated = step.gate is not None and index == step.gate.layer_index
                share = step.gate.computed_columns / step.gate.columns if gated else 1.0
                cycles = program.cycles[index] if isinstance(program, CompiledProgram) else None
                reports.append(_report(layer, program.kernels[index], share, cycles, seconds[index]))
        return reports

    def _layer_seconds(self, step: LayerStep, program: Program) -> list[float | None]:
        """Return the seconds per sample of each layer: the medians of some runs."""
        timed = getattr(program, "layer_seconds", None)
        if timed is None:
            return [None] * len(step.layers)
        start, stop = self._chunks[0]
        n = stop - start
        x = np.random.default_rng(0).standard_normal((n, *step.layers[0].input_shape), np.float32)
        out = np.empty((n, *step.layers[-1].output_shape), np.float32)
        rounds, end = [], perf_counter() + 0.2
        while len(rounds) < 3 or (perf_counter() < end and len(rounds) < 1000):
            rounds.append(timed(x, out))
        return (np.median(rounds, axis=0) / n).tolist()

    def explain(self, measure: bool = True) -> str:
        """Return a table of what runs how: one line per fused layer, then what runs by itself. See `layers`."""
        lines = [
            f"{self.precision}, batch size {self.batch_size}, {self.threads} thread(s), {self.instruction_set}",
            f"{'layer':<24}{'kernel':<27}{'weights':<14}{'non-zero':>9}{'MACs':>12}{'remaining':>12}"
            f"{'estimated':>12}{'measured':>12}",
        ]
        for r in self.layers(measure):
            measured = "-" if r.measured_us is None else f"{r.measured_us:.2f} µs"
            lines.append(
                f"{r.name[-23:]:<24}{r.kernel:<27}{r.pattern!s:<14}{r.pattern.density:>9.1%}{r.macs:>12,}"
                f"{r.remaining_macs:>12,}{f'{r.estimated_us:.2f} µs':>12}{measured:>12}"
            )
        for step in self.plan.steps:
            if isinstance(step, LayerStep):
                lines += _choices(step)
        slow = self._slow_layers()
        if slow:
            lines.append(f"no fast kernel, runs portably: {', '.join(slow)}")
        operators = [f"{s.node.name} ({s.node.op})" for s in self.plan.steps if not isinstance(s, LayerStep)]
        if operators:
            lines.append(f"not fused, runs by itself: {', '.join(operators)}")
        return "\n".join(lines)

    def _slow_layers(self) -> list[str]:
        """Return the names of the layers that no fast kernel runs."""
        layers = [layer for step in self.plan.steps if isinstance(step, LayerStep) for layer in step.layers]
        return [layer.name for layer, kernel in zip(layers, self.kernels, strict=True) if kernel == "portable"]


#: To turn estimated cycles into time: rounded, of today's processors.
CYCLES_PER_US = 3e3
#: Multiplications with non-zero weights per µs and thread of the portable program.
PORTABLE_RATE = 5e3


#: All engines of this process.
_ENGINES: "weakref.WeakSet[Engine]" = weakref.WeakSet()


def _forget_threads() -> None:
    for engine in _ENGINES:
        engine._run_batch = engine._run_after_fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _precision(layer: FloatLayer | IntegerLayer) -> str:
    return "int8" if isinstance(layer, IntegerLayer) else "fp32"


def _report(
    layer: FloatLayer | IntegerLayer, kernel: str, share: float, cycles: float | None, seconds: float | None
) -> LayerReport:
    """Describe one layer of which the share `share` of the columns is computed."""
    positions = 1
    if layer.kind == "conv":
        # Of the convolution itself: a pool may drop a last row or column, which is not computed.
        height, width = layer.output_shape[1:]
        positions = height * width * (layer.pool[0] * layer.pool[1] if layer.pool else 1)
    precision = _precision(layer)
    pattern = recognise(layer.weight, layer.input_shape)
    columns = share
    if kernel.startswith("events"):
        share *= layer.active
    remaining = round(np.count_nonzero(layer.weight) * positions * share)
    estimated = remaining / PORTABLE_RATE if cycles is None else cycles / CYCLES_PER_US * columns
    measured = None if seconds is None else seconds * 1e6
    macs = layer.weight.size * positions
    return LayerReport(layer.name, layer.kind, precision, pattern, kernel, macs, remaining, estimated, measured)


def _choices(step: LayerStep) -> list[str]:
    """Say which activations the layers of a step choose to compute, or to keep."""
    lines, gate = [], step.gate
    if gate is not None:
        name = step.layers[gate.layer_index].name
        lines.append(f"column gate: {gate.computed_columns} of {gate.columns} columns of {name} are computed")
    for layer in step.layers:
        if isinstance(layer, IntegerLayer) and layer.winners is not None:
            outputs = math.prod(layer.output_shape)
            lines.append(f"k-winners: at least {layer.winners:,} of {outputs:,} outputs of {layer.name} stay")
    return lines


def _is_whole(plan: Plan) -> bool:
    """Tell whether a plan is one sequence of layers that reads and writes arrays of the model's own shapes."""
    step = plan.steps[0]
    if len(plan.steps) > 1 or not isinstance(step, LayerStep):
        return False
    shapes = (step.layers[0].input_shape, step.layers[-1].output_shape)
    return shapes == (plan.shapes[plan.input], plan.shapes[plan.output])


def _split(batch_size: int, threads: int) -> list[tuple[int, int]]:
    """Return the samples of each thread as (start, stop): groups of 16, which a linear layer computes together."""
    unit = 16 if batch_size >= 16 * threads else 1
    units = -(-batch_size // unit)
    threads = min(threads, units)
    bounds = [min(units * i // threads * unit, batch_size) for i in range(threads + 1)]
    return list(pairwise(bounds))


def _choose_instruction_set(name: str | None) -> InstructionSet | None:
    """The instruction set of a name, by default the best; None: the portable program."""
    source = "instruction_set"
    if name is None and (name := os.environ.get(INSTRUCTION_SET_VARIABLE) or None) is not None:
        source = INSTRUCTION_SET_VARIABLE
    if name is None:
        return best_instruction_set()
    if name == "portable":
        return None
    if name not in INSTRUCTION_SETS:
        choices = ", ".join((*INSTRUCTION_SETS, "portable"))
        raise InvalidInputError(f"{source} = {name!r}, expected one of {choices}")
    if missing := INSTRUCTION_SETS[name].missing():
        raise InvalidInputError(
            f"{source} = {name!r}: this CPU, or what Numba compiles for, lacks {', '.join(sorted(missing))}"
        )
    return INSTRUCTION_SETS[name]


def _make_program(step: LayerStep, batch_size: int, instruction_set: InstructionSet | None) -> Program:
    """Return the fastest program that the instruction set allows."""
    if instruction_set is not None:
        program = compile_program(
            step.layers, step.quantization, step.gate, batch_size, instruction_set=instruction_set
        )
        if program is not None:
            return program
    return PortableProgram(step.layers, step.gate, step.quantization)

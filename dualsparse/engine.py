"""The engine: a model, made ready for arrays of fixed shapes and a number of threads."""

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from numpy import empty, ndarray

from dualsparse import estimates
from dualsparse.errors import DualsparseError, InvalidInputError
from dualsparse.kernels import CompiledProgram
from dualsparse.kernels.cpu import REQUIRED, host_features
from dualsparse.layers import IntegerLayer, Program
from dualsparse.onnx_file import Argument, OnnxFile, Shapes, arguments, load
from dualsparse.onnx_import import import_onnx
from dualsparse.parts import OwnPart, RuntimePart, Values, make_parts
from dualsparse.patterns import Pattern, recognise
from dualsparse.plan import LayerStep, Plan, integer_input, make_plan
from dualsparse.portable import PortableProgram
from dualsparse.runtime import is_installed
from dualsparse.workers import Team, Workers

#: The choices of `instruction_set`: what the kernels may use; None is the best of this CPU.
INSTRUCTION_SETS = ("avx512", "portable")
FLOAT32 = np.dtype(np.float32)


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
    estimated_us: float  # per sample, mostly from remaining_macs and the kernel's usual rate
    measured_us: float | None  # per sample, on random inputs; None if the program can't be split


@dataclass(frozen=True)
class RuntimeReport:
    """What `Engine.runtime_parts` tells about one part that ONNX Runtime runs."""

    operators: dict[str, int]  # how many of each
    macs: int  # multiplications per call
    estimated_us: float  # per call, of the multiplications and of handing values over
    measured_us: float | None  # per call, on random inputs; None if it fails on those


class Engine:
    """A network ready to run. `run` may be called from several threads at the same time."""

    def __init__(self, plan: Plan, threads: int = 1, instruction_set: str | None = None) -> None:
        """Prepare `plan`; see `from_onnx`, which makes one that is fast."""
        _check_settings(threads, instruction_set)
        self.plan = plan
        self._parts = make_parts(plan, threads, instruction_set)
        own = [part for part in self._parts if isinstance(part, OwnPart)]
        # Of ONNX Runtime it isn't known how many of its threads have something to do.
        self.threads = max(len(part.chunks) for part in own) if len(own) == len(self._parts) else threads
        graph = plan.graph
        self.inputs: list[Argument] = arguments(v for v in graph.model.graph.input if v.name in graph.inputs)
        self.outputs: list[Argument] = arguments(
            onnx.ValueInfoProto(name=name, type=graph.types.get(name)) for name in graph.outputs
        )
        self.input_shape = self.inputs[0].shape if self.inputs else ()
        self.output_shape = self.outputs[0].shape
        self.batch_size = self.input_shape[0] if self.input_shape else 1
        self._run_batch, self._workers = self._one_program(), None
        if self._run_batch is None and any(len(part.chunks) > 1 for part in own):
            # The calling thread computes, too.
            self._workers = Workers(max(len(part.chunks) for part in own) - 1)
        self._closed = False
        self._origin: tuple[Any, ...] | None = None

    @classmethod
    def from_onnx(
        cls,
        source: Path | str | bytes | OnnxFile,
        batch_size: int | None = None,
        threads: int = 1,
        instruction_set: str | None = None,
        shapes: Shapes | None = None,
    ) -> "Engine":
        """Load an ONNX model. What our kernels don't make faster, or don't cover, ONNX Runtime runs.

        Args:
            source: the file, or its content.
            batch_size: the first size of inputs that leave it open; None stands for 1.
            threads: how many threads share the work.
            instruction_set: None for the fastest kernels of this CPU; "portable" for those that run everywhere;
                "avx512" to insist on AVX-512 with VNNI and VBMI.
            shapes: of inputs by name, where the file leaves other sizes open.

        Raises:
            InvalidModelError: the file is no valid ONNX model.
            UnsupportedModelError: the model needs ONNX Runtime, which is not installed or can't run it either.
            InvalidInputError: a setting is wrong, or contradicts the file or the CPU.
            OSError: the file cannot be read.
        """
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise InvalidInputError(f"batch_size = {batch_size!r}, expected a positive whole number")
        _check_settings(threads, instruction_set)
        file = source if isinstance(source, OnnxFile) else load(source)
        graph = import_onnx(file, batch_size, shapes)
        away: set[str] = set()
        if is_installed():
            plan, fast = make_plan(graph), instruction_set != "portable" and host_features() >= REQUIRED
            steps = [step for step in plan.steps if isinstance(step, LayerStep)]
            expected = [estimates.expected_kernels(step, fast) for step in steps]
            away = estimates.better_elsewhere(plan, expected, threads)
        engine = cls(make_plan(graph, away), threads, instruction_set)
        # Which kernels a sequence has, is known for certain when they are made.
        while is_installed() and (
            more := estimates.better_elsewhere(engine.plan, [p.kernels for _, p in engine._programs], threads)
        ):
            away |= more
            engine = cls(make_plan(graph, away), threads, instruction_set)
        engine._origin = (file.source, batch_size, threads, instruction_set, shapes)
        return engine

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the file (or its content) and the settings: what is compiled belongs to this machine."""
        if self._origin is None:
            raise TypeError("an Engine that was not made by Engine.from_onnx cannot be pickled")
        return Engine.from_onnx, self._origin

    def _one_program(self) -> Callable[[ndarray, ndarray], int] | None:
        """Return what runs a whole batch in one call of compiled code; None if the plan is more than that."""
        plan, step = self.plan, self.plan.steps[0]
        if len(plan.steps) > 1 or not isinstance(step, LayerStep) or len(self.inputs) + len(self.outputs) > 2:
            return None
        shapes = (step.samples, *step.layers[0].input_shape), (step.samples, *step.layers[-1].output_shape)
        if shapes != (self.input_shape, self.output_shape):
            return None
        [program], chunks = self._parts[0].programs, self._parts[0].chunks
        if len(chunks) == 1:
            return program
        team = isinstance(program, CompiledProgram) and sys.platform == "linux"
        return Team(program, chunks) if team else None

    def run(self, x: np.ndarray) -> np.ndarray:
        """Return the output for the input x, of a model that has one of each.

        Args:
            x: of `input_shape`; the output is of `output_shape`.

        Raises:
            InvalidInputError: x is no array of the right type and shape, or holds a value that is not finite where
                our layers read it.
        """
        if self._run_batch is None:
            if len(self.inputs) != 1 or len(self.outputs) != 1:
                raise InvalidInputError(
                    f"a model of {len(self.inputs)} inputs and {len(self.outputs)} outputs: use run_named"
                )
            return self.run_named({self.inputs[0].name: x})[self.outputs[0].name]
        # At batch 1 a whole network takes microseconds: every line here counts.
        if not isinstance(x, ndarray) or x.dtype != FLOAT32 or x.shape != self.input_shape:
            raise self.inputs[0].mismatch(x)
        if not x.flags.c_contiguous:
            x = np.ascontiguousarray(x)
        out = empty(self.output_shape, FLOAT32)
        status = self._run_batch(x, out)
        if status:
            raise _not_finite(status)
        return out

    def run_named(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return all outputs by name, given all inputs by name.

        Raises:
            InvalidInputError: as `run`.
        """
        if self._closed:
            raise InvalidInputError("the engine is closed")
        names = [argument.name for argument in self.inputs]
        if feeds.keys() != set(names):
            [name, *_] = sorted(feeds.keys() ^ set(names))
            raise InvalidInputError(
                f"the input {name!r} is missing" if name in names else f"there is no input {name!r}"
            )
        if self._run_batch is not None:
            return {self.outputs[0].name: self.run(feeds[names[0]])}
        for argument in self.inputs:
            if not argument.accepts(feeds[argument.name]):
                raise argument.mismatch(feeds[argument.name])
        values: Values = dict(feeds)
        for part in self._parts:
            status = part.run(values, self._workers)
            if status:
                raise _not_finite(status)
        return {name: values[made] for name, made in self.plan.outputs.items()}

    def close(self) -> None:
        """End the threads and free what was loaded. The engine can't run any more."""
        self._closed, self._parts, self._workers, self._run_batch = True, [], None, None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- what it tells about itself -----------------------------------------------------------------------------

    @property
    def precision(self) -> str:
        """Of the layers with weights, whoever runs them: int8, fp32, or mixed."""
        graph = self.plan.graph
        layers = [node for node in graph.nodes if node.op in ("Conv", "Linear")]
        found = {"int8" if integer_input(graph, node) else "fp32" for node in layers}
        return found.pop() if len(found) == 1 else "mixed" if found else "fp32"

    @property
    def instruction_set(self) -> str:
        """What our layers run with: AVX-512 if any has a fast kernel."""
        programs = [program for _, program in self._programs]
        if not programs:
            return "chosen by ONNX Runtime"
        portable = all(isinstance(program, PortableProgram) for program in programs)
        return "portable" if portable else "AVX-512 VNNI VBMI"

    @property
    def _programs(self) -> list[tuple[LayerStep, Program]]:
        return [pair for part in self._parts if isinstance(part, OwnPart) for pair in part.layer_steps]

    @property
    def kernels(self) -> list[str]:
        """The kernel of each fused layer, in order."""
        return [kernel for _, program in self._programs for kernel in program.kernels]

    @property
    def own_share(self) -> float:
        """The share of the multiplications with weights that our layers stand for; 1.0 if there are none to count."""
        own = sum(step.samples * estimates.macs(layer) for step, _ in self._programs for layer in step.layers)
        others = sum(self._runtime_macs(part) for part in self._parts if isinstance(part, RuntimePart))
        return own / (own + others) if own + others else float(any(isinstance(part, OwnPart) for part in self._parts))

    def _runtime_macs(self, part: RuntimePart) -> int:
        return sum(estimates.node_macs(self.plan.graph, node) for node in part.step.nodes)

    def layers(self, measure: bool = True) -> list[LayerReport]:
        """Describe the fused layers, in order.

        Args:
            measure: also time every layer, on one thread and random inputs, for a fraction of a second.
        """
        return [report for step, program in self._programs for report in _reports(step, program, measure)]

    def runtime_parts(self, measure: bool = True) -> list[RuntimeReport]:
        """Describe what ONNX Runtime runs, in order.

        Args:
            measure: also time it, on random inputs, for a fraction of a second.
        """
        seconds = self._part_seconds() if measure else {}
        kind = "int8" if self.precision == "int8" else "fp32"
        reports = []
        for part in self._parts:
            if isinstance(part, RuntimePart):
                macs = self._runtime_macs(part)
                estimated = macs / estimates.RUNTIME_RATES[kind] / self.threads + estimates.CROSSING
                measured = seconds[part] * 1e6 if part in seconds else None
                operators = dict(Counter(node.op_type for node in part.step.nodes).most_common())
                reports.append(RuntimeReport(operators, macs, estimated, measured))
        return reports

    def random_inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Return inputs to try the model on: normally distributed, or zeros where numbers aren't real."""
        rng = np.random.default_rng(seed)
        return {argument.name: argument.random(rng) for argument in self.inputs}

    def _part_seconds(self) -> dict[OwnPart | RuntimePart, float]:
        """Return the median seconds of each part on random inputs; nothing if it can't run on those."""
        rounds: list[list[float]] = []
        end = perf_counter() + 0.2
        try:
            while len(rounds) < 3 or (perf_counter() < end and len(rounds) < 1000):
                values: Values = self.random_inputs()
                rounds.append([])
                for part in self._parts:
                    start = perf_counter()
                    part.run(values, self._workers)
                    rounds[-1].append(perf_counter() - start)
        except DualsparseError:
            return {}
        return dict(zip(self._parts, np.median(rounds, axis=0).tolist(), strict=True))

    def explain(self, measure: bool = True) -> str:
        """Return a table of what runs how: a line per fused layer and per part of ONNX Runtime. See `layers`."""
        lines = [
            f"{self.precision}, batch size {self.batch_size}, {self.threads} thread(s), "
            f"{self.own_share:.0%} of the multiplications in our layers",
            f"{'layer':<24}{'kernel':<24}{'weights':<14}{'non-zero':>9}{'MACs':>14}{'remaining':>12}"
            f"{'estimated':>12}{'measured':>12}",
        ]
        runtime_reports = iter(self.runtime_parts(measure))
        for part in self._parts:
            if isinstance(part, RuntimePart):
                r = next(runtime_reports)
                operators = ", ".join(f"{count} {name}" for name, count in r.operators.items())
                times = f"{_us(r.estimated_us / self.batch_size)}{_us(r.measured_us, self.batch_size)}"
                lines.append(f"{'ONNX Runtime: ' + operators:<71.71}{r.macs // self.batch_size:>14,}{'':>12}{times}")
                continue
            for step, program in zip(part.steps, part.programs, strict=True):
                if program is None:
                    lines.append(f"{step.node.name[-23:]:<24}{step.node.op}")
                    continue
                for r in _reports(step, program, measure):
                    lines.append(
                        f"{r.name[-23:]:<24}{r.kernel:<24}{r.pattern!s:<14}{r.pattern.density:>9.1%}{r.macs:>14,}"
                        f"{r.remaining_macs:>12,}{_us(r.estimated_us)}{_us(r.measured_us)}"
                    )
        for step, _ in self._programs:
            lines += _choices(step)
        slow = [r.name for r in self.layers(False) if r.kernel == "portable"]
        if slow:
            lines.append(f"no fast kernel, runs portably: {', '.join(slow)}")
        return "\n".join(lines)


def _check_settings(threads: int, instruction_set: str | None) -> None:
    if not isinstance(threads, int) or threads < 1:
        raise InvalidInputError(f"threads = {threads!r}, expected a positive whole number")
    if instruction_set not in (None, *INSTRUCTION_SETS):
        raise InvalidInputError(f"instruction_set = {instruction_set!r}, expected one of {INSTRUCTION_SETS} or None")
    missing = REQUIRED - host_features()
    if instruction_set == "avx512" and missing:
        raise InvalidInputError(f"instruction_set = 'avx512': this CPU lacks {', '.join(sorted(missing))}")


def _not_finite(status: int) -> InvalidInputError:
    what = "the input holds a value" if status == 1 else "the input leads to an activation"
    return InvalidInputError(f"{what} that is not finite")


def _us(value: float | None, samples: int = 1) -> str:
    return f"{'-' if value is None else f'{value / samples:.2f} µs':>12}"


def _reports(step: LayerStep, program: Program, measure: bool) -> list[LayerReport]:
    """Describe the layers of a sequence, each per sample."""
    seconds = _layer_seconds(step, program) if measure else [None] * len(step.layers)
    reports = []
    for index, layer in enumerate(step.layers):
        kernel = program.kernels[index]
        remaining = estimates.remaining_macs(step, index, kernel)
        estimated = estimates.own_us(step, index, kernel)
        measured = None if seconds[index] is None else seconds[index] * 1e6
        pattern = recognise(layer.weight, layer.input_shape)
        reports.append(
            LayerReport(
                layer.name,
                layer.kind,
                estimates.precision(layer),
                pattern,
                kernel,
                estimates.macs(layer),
                remaining,
                estimated,
                measured,
            )
        )
    return reports


def _layer_seconds(step: LayerStep, program: Program) -> list[float | None]:
    """Return the seconds per sample of each layer: the medians of some runs."""
    timed = getattr(program, "layer_seconds", None)
    if timed is None:
        return [None] * len(step.layers)
    n = min(step.samples, 64)
    x = np.random.default_rng(0).standard_normal((n, *step.layers[0].input_shape), np.float32)
    out = np.empty((n, *step.layers[-1].output_shape), np.float32)
    rounds, end = [], perf_counter() + 0.2
    while len(rounds) < 3 or (perf_counter() < end and len(rounds) < 1000):
        rounds.append(timed(x, out))
    return (np.median(rounds, axis=0) / n).tolist()


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

"""What an engine runs one after the other: steps of our own kernels, shared among threads, and ONNX Runtime's."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dualsparse.kernels import compile_program
from dualsparse.layers import Program
from dualsparse.operators import OPERATORS
from dualsparse.plan import LayerStep, OperatorStep, Plan, RuntimeStep
from dualsparse.portable import PortableProgram, k_winners
from dualsparse.runtime import Session
from dualsparse.workers import Workers

#: Arrays (or whatever else ONNX Runtime hands on) by the names of their tensors.
Values = dict[str, Any]


class OwnPart:
    """Consecutive steps on the same number of samples. Each thread takes some samples through all of them."""

    def __init__(
        self, plan: Plan, steps: Sequence[LayerStep | OperatorStep], threads: int, instruction_set: str | None
    ) -> None:
        self.steps = tuple(steps)
        self.samples = steps[0].samples
        self.chunks = split(self.samples, threads)
        self._plan = plan
        largest = max(stop - start for start, stop in self.chunks)
        self.programs = [
            _make_program(step, largest, instruction_set) if isinstance(step, LayerStep) else None for step in steps
        ]
        made = {step.output for step in steps}
        self._reads = {name for step in steps for name in step.inputs} - made
        read_later = {name for step in plan.steps if step not in self.steps for name in step.inputs}
        self._makes = made & (read_later | set(plan.outputs.values()))

    def run(self, values: Values, workers: Workers | None) -> int:
        """Add what the steps make to `values`.

        Args:
            workers: needed where there is more than one chunk.

        Returns:
            0; or 1 (2) if a value of the model's inputs (of an activation) is not finite.
        """
        sources = {name: np.ascontiguousarray(values[name]).reshape(self.samples, -1) for name in self._reads}
        results = {
            name: np.empty((self.samples, prod(self._plan.shape(name)) // self.samples), np.float32)
            for name in self._makes
        }
        (start, stop), *others = self.chunks
        jobs = [workers.submit(self._run_chunk, sources, results, *chunk) for chunk in others]
        status = self._run_chunk(sources, results, start, stop)
        status = max([status, *(job.result() for job in jobs)])
        values.update({name: result.reshape(self._plan.shape(name)) for name, result in results.items()})
        return status

    def _run_chunk(self, sources: Values, results: Values, start: int, stop: int) -> int:
        n = stop - start
        values = {name: array[start:stop] for name, array in sources.items()}
        for step, program in zip(self.steps, self.programs, strict=True):
            out = results[step.output][start:stop] if step.output in results else None
            if program is None:
                shapes = [(n, *self._plan.shape(name)[1:]) for name in step.node.inputs]
                arrays = [values[name].reshape(shape) for name, shape in zip(step.inputs, shapes, strict=True)]
                operator = k_winners if step.node.op == "KWinners" else OPERATORS[step.node.op]
                made = operator(arrays, step.node.attributes).reshape(n, -1)
                if out is None:
                    out = made
                else:
                    out[:] = made
            else:
                x = values[step.input].reshape(n, *step.layers[0].input_shape)
                y = np.empty((n, *step.layers[-1].output_shape), np.float32) if out is None else out
                if program(x, y.reshape(n, *step.layers[-1].output_shape)):
                    return 1 if step.input in self._plan.graph.inputs else 2
                out = y.reshape(n, -1)
            values[step.output] = out
        return 0

    @property
    def layer_steps(self) -> list[tuple[LayerStep, Program]]:
        """The sequences of layers, each with the program that runs it."""
        return [pair for pair in zip(self.steps, self.programs, strict=True) if pair[1] is not None]


class RuntimePart:
    """What ONNX Runtime runs, on all samples at once and with its own threads."""

    def __init__(self, plan: Plan, step: RuntimeStep, threads: int) -> None:
        self.step = step
        file = plan.graph.file
        whole = step.model is None
        operators = sorted({node.op_type for node in step.nodes})
        wanted = ", ".join(operators[:3]) + (", ..." if len(operators) > 3 else "")
        model: Path | bytes = file.source if whole else step.model.SerializeToString()
        self._session = Session(model, file.name, threads, f"what no layer covers ({wanted})")

    def run(self, values: Values, workers: Workers | None) -> int:
        """Add what the step makes to `values`; return 0."""
        feeds = {name: values[name] for name in self.step.inputs if name in values}
        values.update(zip(self.step.outputs, self._session.run(self.step.outputs, feeds), strict=True))
        return 0


def make_parts(plan: Plan, threads: int, instruction_set: str | None) -> list[OwnPart | RuntimePart]:
    """Compile and load all that a plan needs."""
    groups: list[list[LayerStep | OperatorStep | RuntimeStep]] = []
    for step in plan.steps:
        last = groups[-1][-1] if groups else None
        own = not isinstance(step, RuntimeStep)
        if own and last is not None and not isinstance(last, RuntimeStep) and last.samples == step.samples:
            groups[-1].append(step)
        else:
            groups.append([step])
    return [
        RuntimePart(plan, group[0], threads)
        if isinstance(group[0], RuntimeStep)
        else OwnPart(plan, group, threads, instruction_set)
        for group in groups
    ]


def split(samples: int, threads: int) -> list[tuple[int, int]]:
    """Return the samples of each thread as (start, stop): groups of 16, which a linear layer computes together."""
    unit = 16 if samples >= 16 * threads else 1
    units = -(-samples // unit)
    threads = min(threads, units)
    bounds = [min(units * i // threads * unit, samples) for i in range(threads + 1)]
    return list(pairwise(bounds))


def _make_program(step: LayerStep, batch_size: int, instruction_set: str | None) -> Program:
    """Return the fastest program that the instruction set allows."""
    if instruction_set != "portable":
        program = compile_program(step.layers, step.quantization, step.gate, batch_size)
        if program is not None:
            return program
    return PortableProgram(step.layers, step.gate, step.quantization)

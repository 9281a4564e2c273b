"""The division of a graph between our layers and ONNX Runtime, by what each layer is planned to take."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from dualsparse.estimates import Cycles, better_elsewhere
from dualsparse.graph import Graph
from dualsparse.kernels import Builder, choose_builder
from dualsparse.kernels.instruction_sets import InstructionSet
from dualsparse.layers import FloatLayer, InputQuantization, IntegerLayer
from dualsparse.parts import split
from dualsparse.plan import LayerStep, Plan, make_plan
from dualsparse.runtime import is_installed

#: By step, its program as planned, nothing of it compiled; None where the portable program runs it.
Builders = Mapping[LayerStep, Builder | None]


def divide(graph: Graph, threads: int, instruction_set: InstructionSet | None) -> tuple[Plan, Builders]:
    """Return a plan that leaves to ONNX Runtime, where that is installed, what it is expected to run faster.

    Args:
        instruction_set: of our programs; None for the portable one.
    """
    plan = make_plan(graph)
    builders = plan_programs(plan, threads, instruction_set)
    if not is_installed():
        return plan, builders
    away: set[str] = set()
    # One layer without a kernel keeps a whole sequence from a fast program: first see whether that one goes.
    more = better_elsewhere(plan, _hoped_cycles(builders, threads, instruction_set), threads)
    more = more or better_elsewhere(plan, _cycles(builders), threads)
    while more:
        away |= more
        plan = make_plan(graph, away)
        builders = plan_programs(plan, threads, instruction_set)
        more = better_elsewhere(plan, _cycles(builders), threads)
    return plan, builders


def plan_programs(plan: Plan, threads: int, instruction_set: InstructionSet | None) -> Builders:
    """Plan the fastest program of each sequence of layers."""
    steps = [step for step in plan.steps if isinstance(step, LayerStep)]
    if instruction_set is None:
        return dict.fromkeys(steps)
    return {
        step: choose_builder(
            step.layers,
            step.quantization,
            step.gate,
            _most_samples(step, threads),
            instruction_set=instruction_set,
        )
        for step in steps
    }


def _most_samples(step: LayerStep, threads: int) -> int:
    """Return the samples of the thread that has most of them."""
    return max(stop - start for start, stop in split(step.samples, threads))


def _cycles(builders: Builders) -> Cycles:
    return {
        step: [None] * len(step.layers) if builder is None else builder.cycles for step, builder in builders.items()
    }


def _hoped_cycles(builders: Builders, threads: int, instruction_set: InstructionSet | None) -> Cycles:
    """Return the cycles of each layer, in sequences without a program those that it would take by itself."""
    if instruction_set is None:
        return _cycles(builders)
    return {
        step: [_cycles_alone(layer, _most_samples(step, threads), instruction_set) for layer in step.layers]
        if builder is None
        else builder.cycles
        for step, builder in builders.items()
    }


def _cycles_alone(layer: FloatLayer | IntegerLayer, samples: int, instruction_set: InstructionSet) -> float | None:
    """Return what a layer would take in a sequence without its neighbours; None if it has no kernel even there."""
    layers, quantization = [layer], None
    if isinstance(layer, IntegerLayer):
        quantization = InputQuantization(1.0, layer.input_zero_point)
        layers = [replace(layer, output_float=layer.kind == "linear", winners=None)]
        if layer.kind == "conv":
            layers.append(_reader(layer))
    builder = choose_builder(layers, quantization, None, samples, instruction_set=instruction_set)
    return None if builder is None else builder.cycles[0]


def _reader(layer: IntegerLayer) -> IntegerLayer:
    """Return a linear layer that may follow a convolution: integer sequences end with one."""
    return IntegerLayer(
        kind="linear",
        name="",
        input_shape=layer.output_shape,
        output_shape=(1,),
        weight=np.ones((1, prod(layer.output_shape)), np.int8),
        multiplier=np.ones(1, np.float32),
        offset=np.zeros(1, np.float32),
        input_zero_point=layer.output_zero_point,
        output_zero_point=0,
        output_float=True,
        relu=False,
        pool=None,
    )

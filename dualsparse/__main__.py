"""The command line: python -m dualsparse explain|run|benchmark model.onnx"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from dualsparse.engine import INSTRUCTION_SETS, Engine
from dualsparse.errors import DualsparseError
from dualsparse.runtime import Session


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        shapes = dict(options.shape)
        with Engine.from_onnx(
            options.model, options.batch_size, options.threads, options.instruction_set, shapes
        ) as engine:
            options.command(engine, options)
    except (DualsparseError, OSError) as error:
        print(f"dualsparse: {error}", file=sys.stderr)
        return 1
    return 0


def explain(engine: Engine, options: argparse.Namespace) -> None:
    print(engine.explain())


def run(engine: Engine, options: argparse.Namespace) -> None:
    if options.inputs is None:
        feeds = engine.random_inputs()
    else:
        with np.load(options.inputs) as arrays:
            feeds = dict(arrays)
    results = engine.run_named(feeds)
    for name, value in results.items():
        print(f"{name}: {getattr(value, 'dtype', type(value).__name__)} {list(np.shape(value))}")
    if options.out is None:
        np.set_printoptions(threshold=20, precision=6)
        print(*results.values(), sep="\n")
    else:
        np.savez(options.out, **results)


def benchmark(engine: Engine, options: argparse.Namespace) -> None:
    feeds = engine.random_inputs()
    name = str(options.model)
    runtime = Session(options.model, name, options.threads, "a benchmark")
    ours, theirs, ratios = compare(
        lambda: engine.run_named(feeds),
        lambda: runtime.run([argument.name for argument in engine.outputs], feeds),
        options.turns,
        options.seconds,
    )
    print(f"dualsparse    {ours * 1e6:12.1f} µs a call of {engine.batch_size} (median of {options.turns} turns)")
    print(f"ONNX Runtime  {theirs * 1e6:12.1f} µs")
    print(f"{np.median(ratios):.2f} times as fast [{min(ratios):.2f}, {max(ratios):.2f}]")


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], turns: int, seconds: float
) -> tuple[float, float, list[float]]:
    """Time two functions that take turns, so that what disturbs the machine disturbs both.

    Returns:
        The median seconds of a call of each, and of every pair of turns how many times as fast `ours` was.
    """
    times: dict[Callable[[], object], list[float]] = {ours: [], theirs: []}
    for function in times:
        function()
    for turn in range(turns):
        for function in (ours, theirs) if turn % 2 else (theirs, ours):
            calls, start = 0, perf_counter()
            while (elapsed := perf_counter() - start) < seconds or not calls:
                function()
                calls += 1
            times[function].append(elapsed / calls)
    ratios = [b / a for a, b in zip(times[ours], times[theirs], strict=True)]
    return float(np.median(times[ours])), float(np.median(times[theirs])), ratios


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dualsparse", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    helps = {
        explain: "tell what runs how, and how long each part takes",
        run: "run the model once, on random inputs or on those of a file",
        benchmark: "time the model in turns with ONNX Runtime, on random inputs",
    }
    for command, text in helps.items():
        sub = commands.add_parser(command.__name__, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("model", type=Path, help="an ONNX file")
        sub.add_argument("--batch-size", type=int, metavar="N", help="samples per call, where the file leaves it open")
        sub.add_argument("--threads", type=int, default=1, metavar="N", help="threads that share the work (1)")
        sub.add_argument("--instruction-set", choices=INSTRUCTION_SETS, help="by default the best of this CPU")
        sub.add_argument(
            "--shape",
            action="append",
            default=[],
            type=_shape,
            metavar="INPUT=N,N,...",
            help="the shape of an input, where the file leaves it open; may be repeated",
        )
        if command is run:
            sub.add_argument("--inputs", type=Path, metavar="FILE.npz", help="an array for each input, by its name")
            sub.add_argument("--out", type=Path, metavar="FILE.npz", help="where to write the outputs")
        if command is benchmark:
            sub.add_argument("--turns", type=int, default=11, metavar="N", help="turns of each engine (11)")
            sub.add_argument("--seconds", type=float, default=0.2, metavar="S", help="length of a turn (0.2)")
    return parser


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}, expected INPUT=N,N,...")
    return name, tuple(int(size) for size in sizes.split(",") if size)


if __name__ == "__main__":
    sys.exit(main())

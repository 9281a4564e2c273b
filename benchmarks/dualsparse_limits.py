"""How close the kernels of `dualsparse` come to what the processor's ports allow, layer by layer.

The network has the study's shapes and random weights: convolution 1 half zero, the next two layers 4 of each 64 weights
non-zero, by default in one window of 16 channels that 16 outputs share. Run it alone on one core:
`taskset -c 0 python benchmarks/dualsparse_limits.py`.

The bound of a layer is the larger of: what its instructions take if nothing waits (as the plan estimates: see
`InstructionSet`), and, where weights are used once only, 48 bytes per cycle from the second-level cache. The clock is
measured, by a chain of multiplications of known latency. Times are the best of many, so that what else the machine does
hardly counts.
"""

import argparse
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from numba import njit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dualsparse.kernels import choose_builder
from dualsparse.kernels.instruction_sets import INSTRUCTION_SETS, InstructionSet, best_instruction_set
from dualsparse.layers import ColumnGate, InputQuantization, IntegerLayer

LAYERS = ("conv1", "conv2", "linear1", "linear2")
SECOND_LEVEL_BYTES_PER_CYCLE = 48


@njit
def multiplication_chain(length: int, start: int) -> int:
    """Each step waits for the one before: 3 cycles for the product, 1 for the exclusive or."""
    value = start
    for i in range(length):
        value = (value * value) ^ i
    return value


def clock() -> float:
    """Cycles per second."""
    multiplication_chain(10, 3)
    best, length = np.inf, 200_000
    for _ in range(50):
        start = perf_counter()
        multiplication_chain(length, 12345)
        best = min(best, perf_counter() - start)
    return 4 * length / best


def n_of_64(rng: np.random.Generator, shape: tuple[int, ...], n: int) -> np.ndarray:
    """Random int8 weights of which n of each 64 along the last axis are not zero."""
    weight = rng.integers(1, 128, shape) * rng.choice([-1, 1], shape)
    windows = weight.reshape(-1, 64)
    rank = np.argsort(np.argsort(rng.random(windows.shape), axis=1), axis=1)
    return (windows * (rank < n)).astype(np.int8).reshape(shape)


def n_of_16(rng: np.random.Generator, shape: tuple[int, ...], n: int, sharing: int) -> np.ndarray:
    """Random int8 weights: n of one window of 16 along the last axis of 64, the same window for `sharing` outputs."""
    outputs, *taps, _ = shape
    windows = rng.integers(0, 4, (-(-outputs // sharing), *taps, 1, 1)) == np.arange(4)[:, np.newaxis]
    kept = np.argsort(np.argsort(rng.random((outputs, *taps, 4, 16)))) < n
    weight = rng.integers(1, 128, kept.shape) * rng.choice([-1, 1], kept.shape)
    return (weight * kept * np.repeat(windows, sharing, axis=0)[:outputs]).astype(np.int8).reshape(shape)


def study_layers(rng: np.random.Generator, n: int, taps: float, sharing: int = 0) -> list[IntegerLayer]:
    """The study's network with n of 64 weights, and the share `taps` of the first layer's.

    Args:
        sharing: of how many outputs in a row the weights lie in the same 16 of 64 channels; 0: they lie anywhere.
    """

    def placed(shape: tuple[int, ...]) -> np.ndarray:
        return n_of_16(rng, shape, n, sharing) if sharing else n_of_64(rng, shape, n)

    conv1 = rng.integers(-127, 128, (64, 1, 5, 5)) * (rng.random((64, 1, 5, 5)) < taps)
    conv2 = placed((64, 5, 5, 64)).transpose(0, 3, 1, 2)
    linear1 = placed((1500, 25, 64)).swapaxes(1, 2).reshape(1500, 1600)
    linear2 = rng.integers(-127, 128, (12, 1500))
    shapes = [(1, 32, 32), (64, 14, 14), (64, 5, 5), (1500,), (12,)]
    layers = []
    for index, weight in enumerate((conv1, conv2, linear1, linear2)):
        last = index == 3
        layers.append(
            IntegerLayer(
                kind="conv" if weight.ndim == 4 else "linear",
                weight=weight.astype(np.int8),
                multiplier=rng.uniform(0.0005, 0.002, len(weight)).astype(np.float32),
                offset=rng.uniform(-40, 40, len(weight)).astype(np.float32),
                input_zero_point=0 if index else 128,
                output_zero_point=0,
                output_float=last,
                relu=not last,
                pool=(2, 2) if weight.ndim == 4 else None,
                input_shape=shapes[index],
                output_shape=shapes[index + 1],
            )
        )
    return layers


def bound_cycles(operations, batch_size: int, instruction_set: InstructionSet) -> tuple[float, str]:
    """The fewest cycles per sample that a layer's instructions allow, and what limits them."""
    picks = operations.permutations * instruction_set.pick_cycles
    arithmetic = picks + operations.products * instruction_set.dot_cycles + operations.others / 2
    # A chunk of samples shares the weights of a linear layer.
    second_level = operations.weight_bytes / SECOND_LEVEL_BYTES_PER_CYCLE / min(batch_size, 16)
    limits = [
        (arithmetic, "arithmetic"),
        (second_level if operations.weight_bytes > 32768 else 0, "second-level cache"),
    ]
    return max(limits)


def best_parts(program, x: np.ndarray, out: np.ndarray, rounds: int) -> np.ndarray:
    """Seconds per sample of the input, the gate and each layer: the best of `rounds`."""
    return np.min([program.part_seconds(x, out) for _ in range(rounds)], axis=0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--non-zeros", type=int, default=4, help="of each 64 weights (default: %(default)s)")
    parser.add_argument("--taps", type=float, default=0.5, help="share of conv1's weights (default: %(default)s)")
    parser.add_argument("--keep", type=int, default=2, help="columns of 5 that the gate keeps (default: %(default)s)")
    parser.add_argument(
        "--sharing", type=int, default=16, help="outputs that share a window, 0: anywhere (default: %(default)s)"
    )
    parser.add_argument("--instruction-set", choices=INSTRUCTION_SETS, help="default: the best of this machine")
    parser.add_argument("--rounds", type=int, default=200, help="of which the best counts (default: %(default)s)")
    options = parser.parse_args(arguments)

    rng = np.random.default_rng(0)
    layers = study_layers(rng, options.non_zeros, options.taps, options.sharing)
    isa = INSTRUCTION_SETS[options.instruction_set] if options.instruction_set else best_instruction_set()
    if isa is None or isa.missing():
        sys.exit("This machine lacks the instructions: there is no fast program to measure.")
    quantization = InputQuantization(0.03, 128)
    gate = ColumnGate(kernel_width=16, stride_width=4, keep=options.keep, columns=5, layer_index=1)
    programs = [choose_builder(layers, quantization, choice, instruction_set=isa).program() for choice in (None, gate)]
    for batch_size in (1, 64):
        frequency = clock()
        print(f"{isa.title}, batch size {batch_size}, {frequency / 1e9:.2f} GHz")
        print(f"{'':10}{'time/µs':>10}{'cycles':>10}{'bound':>10}{'reached':>9}  {'limit':<20}{'gated/µs':>10}")
        # Fresh noise in every sample, with energy that moves: the gate's choices differ.
        x = rng.standard_normal((batch_size, 1, 32, 32)) + 3 * np.sin(
            np.arange(32) / 4 + rng.random((batch_size, 1, 1, 1))
        )
        x = x.astype(np.float32)
        out = np.empty((batch_size, 12), np.float32)
        plain, gated = (best_parts(program, x, out, options.rounds) for program in programs)
        bounds = [(np.nan, ""), (np.nan, ""), *(bound_cycles(work, batch_size, isa) for work in programs[0].operations)]
        for name, seconds, with_gate, (bound, limit) in zip(
            ("input", "gate", *LAYERS), plain, gated, bounds, strict=True
        ):
            cycles = seconds * frequency
            print(
                f"{name:10}{seconds * 1e6:10.2f}{cycles:10.0f}{bound:10.0f}{bound / cycles:9.0%}  {limit:<20}"
                f"{with_gate * 1e6:10.2f}"
            )
        print(f"{'all':10}{plain.sum() * 1e6:10.2f}{plain.sum() * frequency:10.0f}{'':41}{gated.sum() * 1e6:10.2f}\n")


if __name__ == "__main__":
    main()

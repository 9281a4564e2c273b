"""Run one engine on one model in this process, as `engine_process.py` tells it. Standard library and NumPy only.

It runs in the engine's own environment. The parent writes one request (JSON) to standard input and reads events, one
JSON object a line, from standard output; what the engine prints goes to standard error. Two modes:

- `evaluate`: run the whole test set and compare with the labels and with the reference.
- `benchmark`: load, check parity, and answer that it is ready; then obey one command (JSON) a line and answer each:
  `warm_up`, any number of `turn`, and `end`. Between turns the parent stops this process.
"""

import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from sparsemark.cpu import frequency_mhz
from sparsemark.engines import engine_class
from sparsemark.engines.protocol import Engine, UnsupportedCase
from sparsemark.measuring.outcome import from_exception

#: Clips that parity is checked on. Enough that an INT8 network which agrees on 97 % of them is not failed by chance.
PARITY_CLIPS = 256
#: Timed calls walk through this many different clips, or through as many as hold more than a core's own caches, in at
#: least MINIMUM_BATCHES batches: a single repeated input would teach the branch predictors the data.
POOL_CLIPS, POOL_BYTES = 1024, 4 << 20
MINIMUM_BATCHES = 8
#: A thread counts as computing if it was on a CPU for this share of the time of the busiest one. Shares of the time
#: that passed would depend on what else the machine does.
BUSY_SHARE = 0.05


@dataclass(frozen=True)
class Tolerance:
    """How far an engine's logits may be from the FP32 reference of the same network."""

    relative_error: float  # of a clip's logits in the L2 norm, the median over clips
    agreement: float  # share of clips with the same class


#: The median, because where two units compete for a place among the k winners, rounding decides, and a few clips of a
#: network with k-winners come out differently in any engine. FP32 engines only sum in another order: 1e-6 is usual,
#: and BF16 passed off as FP32 shows 4e-3. BF16 has 8 significant bits, which makes 1e-2 through four layers. INT8
#: differs more, and what counts is the class.
TOLERANCES = {
    "fp32": Tolerance(1e-4, 0.98),
    "bf16": Tolerance(5e-2, 0.9),
    "int8": Tolerance(0.25, 0.9),
}


class ParityError(Exception):
    """The engine computes something else than the network; the message is the reason that its row shows."""


def aligned_empty(shape: tuple[int, ...], alignment: int = 64) -> np.ndarray:
    """Return an uninitialised float32 array that starts at a multiple of `alignment` bytes."""
    size = int(np.prod(shape)) * 4
    buffer = np.empty(size + alignment, np.uint8)
    start = -buffer.ctypes.data % alignment
    return buffer[start : start + size].view(np.float32).reshape(shape)


def in_batches(x: np.ndarray, batch_size: int) -> np.ndarray:
    """Return the clips `x` [n, ...] as aligned batches [batches, batch_size, ...]; the last is padded with zeros."""
    count = -(-len(x) // batch_size)
    batches = aligned_empty((count, batch_size, *x.shape[1:]))
    flat = batches.reshape(count * batch_size, *x.shape[1:])
    flat[: len(x)] = x
    flat[len(x) :] = 0
    return batches


def timing_batches(x: np.ndarray, batch_size: int) -> np.ndarray:
    """Return the batches that timed calls walk through, full, in an order in which the classes are mixed."""
    clips = max(min(POOL_CLIPS, -(-POOL_BYTES // x[0].nbytes)), MINIMUM_BATCHES * batch_size)
    clips = -(-clips // batch_size) * batch_size
    order = np.random.default_rng(0).permutation(len(x))
    return in_batches(x[np.resize(order, clips)], batch_size)


def infer(engine: Engine, x: np.ndarray, batch_size: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the engine's logits, float32 [n, *shape], of the clips `x`.

    Raises:
        ParityError: a result of the wrong shape or type, not finite, or an input that was written to.
    """
    logits = []
    for batch in in_batches(x, batch_size):
        before = batch.copy()
        y = engine.run(batch)
        if y.shape != (batch_size, *shape) or y.dtype != np.float32:
            raise ParityError(f"the engine returned {y.dtype} {y.shape}, expected float32 {(batch_size, *shape)}")
        if not np.array_equal(batch, before):
            raise ParityError("the engine changed its input")
        logits.append(np.array(y))
    logits = np.concatenate(logits)[: len(x)]
    if not np.isfinite(logits).all():
        raise ParityError("the engine returned logits that are not finite")
    return logits


def compare(logits: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return the relative error (L2) of the median clip, and the share of clips with the same class."""
    logits, reference = logits.reshape(len(logits), -1), reference.reshape(len(reference), -1)
    norms = np.maximum(np.linalg.norm(reference, axis=1), np.finfo(np.float32).tiny)
    error = np.median(np.linalg.norm(logits - reference, axis=1) / norms)
    agreement = np.mean(logits.argmax(1) == reference.argmax(1))
    return {"relative_error": float(error), "agreement": float(agreement)}


def check_parity(logits: np.ndarray, reference: np.ndarray, precision: str, labelled: bool = True) -> dict[str, float]:
    """Return `compare`'s figures. Without labels, outputs need be no classes, and which is largest says nothing.

    Raises:
        ParityError: they are beyond the tolerance of `precision`.
    """
    figures, tolerance = compare(logits, reference), TOLERANCES[precision]
    too_few = labelled and figures["agreement"] < tolerance.agreement
    if figures["relative_error"] > tolerance.relative_error or too_few:
        classes = f", same class {figures['agreement']:.1%} (at least {tolerance.agreement:.0%})" if labelled else ""
        raise ParityError(
            f"parity with the FP32 reference: relative error {figures['relative_error']:.2g} "
            f"(at most {tolerance.relative_error:g}){classes}"
        )
    return figures


def warm_up(run: Callable, inputs: Iterator, seconds: float, calls: int, clock: Callable = time.monotonic_ns) -> int:
    """Call `run` for both `seconds` and `calls`; return how many calls it took."""
    end, done = clock() + int(seconds * 1e9), 0
    while done < calls or clock() < end:
        run(next(inputs))
        done += 1
    return done


def timed_calls(
    run: Callable, inputs: Iterator, begin_ns: int, end_ns: int, clock: Callable = time.monotonic_ns
) -> tuple[int, list[int]]:
    """Call `run` on one input after the other: untimed until the clock reaches `begin_ns`, then timed until `end_ns`.

    The untimed calls, one at least, bring back what the other's turn has driven out of the caches; of the timed calls
    there is one at least as well. One reading of the clock ends a call and begins the next, so the times add up to the
    time that passed, and the loop's own 0.2 µs are part of them.

    Returns:
        The clock at the first timed call (ns) and the time of each in order (ns). The clock is the machine's monotonic
        one, the same for every process.
    """
    run(next(inputs))
    while clock() < begin_ns:
        run(next(inputs))
    times: list[int] = []
    begin = stamp = clock()
    while stamp < end_ns or not times:
        run(next(inputs))
        now = clock()
        times.append(now - stamp)
        stamp = now
    return begin, times


def thread_seconds() -> dict[str, float]:
    """Return the CPU seconds of each thread of this process: to the nanosecond, or in the scheduler's ticks."""
    seconds = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            seconds[folder.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            # Not every kernel keeps these; some write zeros.
            if nanoseconds := int((folder / "schedstat").read_text(encoding="ascii").split()[0]):
                seconds[folder.name] = nanoseconds / 1e9
        except OSError:
            continue  # the thread ended meanwhile, or the ticks have to do
    return seconds


def busy_threads(before: dict[str, float], after: dict[str, float]) -> int:
    """Return how many threads computed between two readings of `thread_seconds`."""
    spent = [seconds - before.get(name, 0.0) for name, seconds in after.items()]
    return sum(seconds > BUSY_SHARE * max(spent) for seconds in spent)


def peak_memory_mib() -> float:
    """Return the largest resident memory of this program so far (`getrusage` would count the parent's before exec)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024, 1)


class Worker:
    """One request, carried out step by step; every step is announced, so that the parent knows where a crash was."""

    def __init__(self, request: dict, commands: TextIO, events: TextIO) -> None:
        self.request = request
        self.commands = commands
        self.events = events

    def send(self, **event: object) -> None:
        print(json.dumps(event, separators=(",", ":")), file=self.events, flush=True)

    def read_inputs(self) -> None:
        """Read test clips and labels, and the FP32 logits that parity is checked against."""
        with np.load(self.request["features"]) as features:
            self.x = np.asarray(features["x"], np.float32)
            # A network from a file may have samples without labels.
            self.y = features["y"] if "y" in features.files else None
        self.reference = np.load(self.request["logits"])
        if len(self.reference) != len(self.x):
            raise ValueError(
                f"{self.request['logits']} holds {len(self.reference)} clips, {self.request['features']} {len(self.x)}"
            )

    def load(self) -> dict[str, float]:
        """Load the engine and its model; return the time of each part."""
        request = self.request
        self.send(step="importing the engine")
        clock = time.perf_counter
        begin = clock()
        self.engine = engine_class(request["engine"])()
        self.engine.prepare(request["threads"])
        imported = clock()
        self.send(step="loading the model")
        self.engine.load(
            Path(request["model"]),
            batch_size=request["batch_size"],
            threads=request["threads"],
            precision=request["precision"],
        )
        loaded = clock()
        self.send(step="the first inference")
        batch = in_batches(self.x[: request["batch_size"]], request["batch_size"])[0]
        first = clock()
        self.engine.run(batch)
        return {
            "import_s": round(imported - begin, 4),
            "load_s": round(loaded - imported, 4),
            "first_inference_ms": round((clock() - first) * 1e3, 4),
        }

    def infer(self, clips: int) -> np.ndarray:
        return infer(self.engine, self.x[:clips], self.request["batch_size"], self.reference.shape[1:])

    def evaluate(self) -> dict[str, object]:
        self.load()
        self.send(step="the test set")
        logits = self.infer(len(self.x))
        return {
            "accuracy": None if self.y is None else float(np.mean(logits.argmax(1) == self.y)),
            "test_clips": len(self.x),
            **compare(logits, self.reference),
            "execution": asdict(self.engine.execution()),
        }

    def benchmark(self) -> dict[str, object]:
        result: dict[str, object] = self.load()
        self.send(step="the parity check")
        clips = min(PARITY_CLIPS, len(self.x))
        result["parity"] = check_parity(
            self.infer(clips), self.reference[:clips], self.request["precision"], self.y is not None
        )
        inputs = itertools.cycle(list(timing_batches(self.x, self.request["batch_size"])))
        del self.x
        gc.collect()
        gc.disable()
        run, cpus, clocks = self.engine.run, os.sched_getaffinity(0), []
        threads_before = thread_seconds()
        self.send(step="timed calls", answer={})
        for line in self.commands:
            match json.loads(line):
                case {"warm_up": [least_s, calls]}:
                    begin = time.monotonic_ns()
                    result["warmup_calls"] = warm_up(run, inputs, least_s, calls)
                    call_ns = (time.monotonic_ns() - begin) // result["warmup_calls"]
                    threads_before = thread_seconds()
                    clocks.append(frequency_mhz(cpus))
                    self.send(answer={"call_ns": call_ns})
                case {"turn": [begin_ns, end_ns]}:
                    cpu_before = time.process_time()
                    begin, times = timed_calls(run, inputs, begin_ns, end_ns)
                    cpu_s = round(time.process_time() - cpu_before, 6)
                    clocks.append(frequency_mhz(cpus))
                    self.send(answer={"begin_ns": begin, "times_ns": times, "cpu_s": cpu_s})
                case {"end": _}:
                    break
        else:
            sys.exit("the parent is gone")
        gc.enable()
        result["busy_threads"] = busy_threads(threads_before, thread_seconds())
        if clocks:
            result["frequency_begin_mhz"], result["frequency_end_mhz"] = clocks[0], clocks[-1]
        self.send(step="reading the settings back")
        return {**result, "peak_memory_mib": peak_memory_mib(), "execution": asdict(self.engine.execution())}

    def work(self) -> None:
        """Carry out the request; its end, good or bad, is the last event."""
        try:
            self.read_inputs()
            result = self.evaluate() if self.request["mode"] == "evaluate" else self.benchmark()
            self.send(status="ok", reason="", result=result)
        except UnsupportedCase as error:
            self.send(status="unsupported", reason=" ".join(str(error).split()))
        except ParityError as error:
            self.send(status="failed", reason=str(error))
        except Exception as error:
            # Whatever an engine raises is a result of the study, not a fault of the program.
            outcome = from_exception(error)
            self.send(status=outcome.status, reason=outcome.reason)
            raise


def main() -> None:
    # Engines print to standard output, some from C++; the events get a descriptor that they do not know.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    Worker(request, sys.stdin, events).work()


if __name__ == "__main__":
    main()

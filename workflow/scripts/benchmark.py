"""Measure one case in turns with the reference: ONNX Runtime, FP32, the dense network, same batch size and cores.

Writes one JSON file with a row for every round and layout that was tried, whatever became of it: a case that cannot
run, crashes, hangs, fills the memory or computes something else has a row with that status and its reason, and no
speed. Only wrong input of this program itself is an error.

A round is a fresh pair of processes, pinned to the same cores, which take short turns; whoever has no turn is stopped.
The first round tries every layout, the others keep the fastest. One case at a time is measured on the machine (a lock
guards that).
"""

import argparse
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sparsemark.files import InputError, atomic_path, exclusive_lock, run_program
from sparsemark.measuring import reference
from sparsemark.measuring.case import case_arguments, case_record, case_request, model_sha256, obstacle, positive
from sparsemark.measuring.engine_process import Ended, Group
from sparsemark.measuring.machine import (
    changes,
    doubts,
    machine_name,
    machine_record,
    machine_state,
    memory_bytes,
    read_counters,
)
from sparsemark.measuring.topology import Layout, plan_layouts, read_cpus
from sparsemark.measuring.turns import (
    REFERENCE,
    Contestant,
    Cycle,
    enter,
    is_narrow,
    log_ratios,
    percentiles,
    span_of_median,
    speed,
    take_turns,
)

#: The names of the groups that take turns, beside REFERENCE.
CASE, BASE = "case", "base"


@dataclass(frozen=True)
class Measure:
    """How a case is measured; the keys of `measuring` in the configuration."""

    rounds: int = 3
    turn_s: float = 0.05
    precision: float = 0.02
    budget_s: float = 2.0
    warmup_s: float = 0.5
    warmup_samples: int = 5
    timeout_s: float = 300.0
    memory_limit_gib: float | None = None

    @classmethod
    def from_json(cls, text: str) -> "Measure":
        """Read it from a JSON object; keys that are missing keep their defaults.

        Raises:
            InputError: not an object, an unknown key, or a value that is not a positive number.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InputError(f"--measure: expected a JSON object ({error})") from error
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict):
            raise InputError(f"--measure: expected a JSON object, got {text}")
        for key, value in values.items():
            if key not in names:
                raise InputError(f"--measure: unknown key {key!r} (expected some of {', '.join(names)})")
            whole = key in ("rounds", "warmup_samples")
            lowest = 1 if whole else 0 if key == "warmup_s" else 1e-9
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value < lowest:
                raise InputError(f"--measure: {key}: expected a number of at least {lowest:g}, got {value!r}")
        return cls(**values)

    @property
    def memory_gib(self) -> float:
        """What one process may allocate: the limit that was set, or nearly all the memory there is.

        Beyond that the kernel would end some process, and not always the greedy one.
        """
        if self.memory_limit_gib is not None:
            return self.memory_limit_gib
        return 0.9 * memory_bytes() / 2**30


@contextmanager
def alone_on_the_machine() -> Iterator[None]:
    """Wait until no other benchmark of this user runs on this machine, and keep others waiting."""
    path = Path(tempfile.gettempdir()) / f"sparsemark-benchmark-{os.getuid()}.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(path))
        except BlockingIOError:
            print(f"waiting for another benchmark on this machine ({path})", file=sys.stderr)
            stack.enter_context(exclusive_lock(path, wait=True))
        yield


def reference_layout(layouts: Sequence[Layout]) -> Layout:
    """Return the layout of the reference: one thread on each core. No thread of it waits for another."""
    cores = len(layouts[0].cpu_sets[0])
    return next(layout for layout in layouts if (layout.instances, layout.threads) == (cores, 1))


class Case:
    """A case and the reference that it takes turns with, as the command line names them."""

    def __init__(self, options: argparse.Namespace, measure: Measure, machine: dict[str, object]) -> None:
        self.options = options
        self.measure = measure
        self.request = case_request(options, "benchmark")
        self.title = f"{options.engine} {options.network} {options.precision} {options.batch_size} {options.cores}"
        self.machine = machine
        cpus = read_cpus()
        limits = [limit for limit in (machine["cpu_quota"], options.max_cores) if limit is not None]
        self.layouts = plan_layouts(cpus, options.cores, min(limits, default=None))
        self.reference_layout = reference_layout(self.layouts)
        [self.base_layout] = plan_layouts(cpus, "1")
        what = (options.engine, options.precision, options.model)
        self.is_reference = what == (reference.ENGINE, reference.PRECISION, options.reference_model)
        self.is_base = self.is_reference and (options.batch_size, options.cores) == reference.BASE

    def start(self, layout: Layout) -> Group:
        """Start the case's own processes."""
        return self._start(self.options.python, self.request, layout, "")

    def start_beside(self) -> Iterator[tuple[str, Group, int]]:
        """Start what the case takes turns with, one after the other: (name, group, batch size)."""
        options = self.options
        shared = {"engine": reference.ENGINE, "precision": reference.PRECISION, "logits": str(options.reference_logits)}
        # A network from a file has samples of its own.
        shared["features"] = str(options.reference_features or options.features)
        request = {**self.request, **shared, "model": str(options.reference_model)}
        yield (
            REFERENCE,
            self._start(options.reference_python, request, self.reference_layout, "the reference: "),
            options.batch_size,
        )
        if self.is_reference and not self.is_base:
            batch_size, _ = reference.BASE
            request = {**request, "model": str(options.base_model), "batch_size": batch_size}
            yield BASE, self._start(options.reference_python, request, self.base_layout, "the base: "), batch_size

    def _start(self, python: Path, request: dict, layout: Layout, role: str) -> Group:
        return Group(
            python,
            request,
            layout.cpu_sets,
            role=role,
            timeout_s=self.measure.timeout_s,
            cache=self.options.cache,
            memory_gib=self.measure.memory_gib,
        )

    def enter(self, group: Group, batch_size: int) -> Contestant:
        measure = self.measure
        return enter(group, batch_size, measure.turn_s, measure.warmup_s, measure.warmup_samples)


def ratios_of(cycles: Sequence[Cycle], precision: float) -> dict[str, object]:
    """Return what the turns of a round say of the case's speed, and the latencies of its calls."""
    logs = log_ratios(cycles, CASE)
    turns = [cycle[CASE] for cycle in cycles]
    latencies = [latency for turn in turns for latency in turn.latencies_ns]
    found: dict[str, object] = {
        "ratio": math.exp(statistics.median(logs)),
        "turns": len(cycles),
        "noisy": not is_narrow(logs, precision),
        "measured_words_per_s": speed(cycles, CASE),
        "reference_words_per_s": speed(cycles, REFERENCE),
        "window_s": sum(turn.window_s for turn in turns),
        "samples": len(latencies),
    }
    if span := span_of_median(logs):
        found["ratio_low"], found["ratio_high"] = map(math.exp, span)
    if BASE in cycles[0]:
        links = [cycle[REFERENCE].words_per_s / cycle[BASE].words_per_s for cycle in cycles]
        found["base_ratio"] = statistics.median(links)
    for name, value in percentiles(latencies).items():
        found[f"latency_ms_{name}"] = value / 1e6
    return found


def what_ran(results: Sequence[dict]) -> dict[str, object]:
    """Return what the instances of a group tell at their end: costs of starting, threads, settings, parity."""
    slowest = {key: max(result[key] for result in results) for key in ("import_s", "load_s", "first_inference_ms")}
    # Whether the kernel tells the clock is a matter of the machine, not of the instance.
    clock = {
        key: min((result[key] for result in results if result[key] is not None), default=None)
        for key in ("frequency_begin_mhz", "frequency_end_mhz")
    }
    return {
        **slowest,
        **clock,
        "warmup_calls": min(result["warmup_calls"] for result in results),
        "peak_memory_mib": round(sum(result["peak_memory_mib"] for result in results), 1),
        "busy_threads": sum(result["busy_threads"] for result in results),
        "parity": results[0]["parity"],
        "execution": results[0]["execution"],
    }


def measure_layout(case: Case, layout: Layout, beside: dict[str, Contestant], number: int) -> tuple[dict, dict]:
    """Measure one layout in a round, in turns with `beside`; return its row and its raw times."""
    seed = zlib.crc32(f"{case.title} {layout.name} {number}".encode())
    row: dict[str, object] = {
        "round": number,
        "layout": layout.name,
        "instances": layout.instances,
        "threads": layout.threads,
        "cpus": [list(cpus) for cpus in layout.cpu_sets],
        "core_class": layout.core_class,
        "is_reference": case.is_reference and layout == case.reference_layout,
        "order_seed": seed,
        **machine_state(layout.cpu_sets[0][0]),
    }
    measure = case.measure
    try:
        with case.start(layout) as group:
            contestants = {CASE: case.enter(group, case.options.batch_size), **beside}
            begin = time.monotonic()
            cycles = take_turns(
                contestants, CASE, random.Random(seed), precision=measure.precision, budget_s=measure.budget_s
            )
            row["turns_s"] = round(time.monotonic() - begin, 3)
            row.update(what_ran(group.finish()))
    except Ended as ended:
        return {**row, **asdict(ended.outcome)}, {}
    except ValueError as error:
        return {**row, "status": "failed", "reason": str(error)}, {}
    row.update(status="ok", reason="", **ratios_of(cycles, measure.precision))
    return row, {
        "round": number,
        "layout": layout.name,
        "turns": [cycle[CASE].raw for cycle in cycles],
        "words_per_s": {name: [cycle[name].words_per_s for cycle in cycles] for name in contestants},
    }


def measure_round(case: Case, layouts: Sequence[Layout], number: int) -> list[tuple[dict, dict]]:
    """Measure `layouts` in turns with one fresh reference; return (row, raw times) of each."""
    cpus = sorted({number for layout in layouts for cpu_set in layout.cpu_sets for number in cpu_set})
    before = read_counters(cpus)
    with ExitStack() as stack:
        beside, found = {}, []
        try:
            for name, group, batch_size in case.start_beside():
                stack.enter_context(group)
                beside[name] = case.enter(group, batch_size)
        except Ended as ended:
            row = {"round": number, "layout": "", **machine_state(0), **asdict(ended.outcome)}
            found = [(row, {})]
        else:
            found = [measure_layout(case, layout, beside, number) for layout in layouts]
    happened = changes(before, read_counters(cpus))
    for row, _ in found:
        row.update(happened)
        row["doubts"] = "; ".join(doubts(case.machine, row))
        told = f"{row['ratio']:.3f} of the reference, {row['turns']} turns" if row["status"] == "ok" else row["reason"]
        print(f"{case.title}, round {number}, {row['layout']}: {row['status']}, {told}", file=sys.stderr)
    return found


def measure_case(case: Case) -> tuple[list[dict], list[dict]]:
    """Measure every round of a case; return its rows and their raw times.

    The first round tries all layouts, the others keep the fastest. The reference, as a case, also keeps its own layout,
    in which it meets itself. A case whose first round fails is not tried again.
    """
    found = measure_round(case, case.layouts, 1)
    speeds = {row["layout"]: row["ratio"] for row, _ in found if row["status"] == "ok"}
    if speeds:
        kept = {max(speeds, key=speeds.get)}
        if case.is_reference:
            kept.add(case.reference_layout.name)
        layouts = [layout for layout in case.layouts if layout.name in kept]
        for number in range(2, case.measure.rounds + 1):
            found += measure_round(case, layouts, number)
    return [row for row, _ in found], [raw for _, raw in found if raw]


def write_compact(path: Path, value: dict) -> None:
    """Write `value` as JSON on one line per top-level key, atomically: raw times would fill a line each."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
    with atomic_path(path) as partial:
        partial.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    case_arguments(parser)
    parser.add_argument("--cores", required=True, choices=("1", "all"), help="one core or the whole processor")
    parser.add_argument(
        "--max-cores", type=positive, metavar="N", help="hardware threads that `--cores all` may use (default: all)"
    )
    beside = parser.add_argument_group("the reference")
    beside.add_argument("--reference-python", required=True, type=Path, help=f"interpreter that has {reference.ENGINE}")
    beside.add_argument("--reference-model", required=True, type=Path, metavar="ONNX", help="dense, of this batch size")
    beside.add_argument("--reference-features", type=Path, metavar="NPZ", help="its samples, if they are others")
    beside.add_argument("--reference-logits", required=True, type=Path, metavar="NPY", help="its FP32 logits")
    base = f"of the base's batch size, {reference.BASE[0]}; only the reference takes turns with it"
    beside.add_argument("--base-model", required=True, type=Path, metavar="ONNX", help=base)
    defaults = json.dumps(asdict(Measure()))
    parser.add_argument("--measure", default="{}", metavar="JSON", help=f"how long; missing keys default to {defaults}")
    options = parser.parse_args(arguments)
    record = machine_record()
    case = Case(options, Measure.from_json(options.measure), record)
    description = {**case_record(options), "cores": options.cores, "machine": machine_name(record), "model_sha256": ""}
    rows, raw_times = [], []
    with alone_on_the_machine():
        started_at = time.time()
        if outcome := obstacle(options):
            rows.append({"round": 1, "layout": "", **machine_state(0), **asdict(outcome)})
        else:
            description["model_sha256"] = model_sha256(options.model)
            rows, raw_times = measure_case(case)
    result = {
        "case": description,
        "measure": asdict(case.measure),
        "machine": record,
        "started_at": started_at,
        "ended_at": time.time(),
        "rows": rows,
        "raw_times": raw_times,
    }
    write_compact(options.out, result)


if __name__ == "__main__":
    run_program(main)

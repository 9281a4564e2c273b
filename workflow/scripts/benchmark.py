"""Measure one case: an engine on a model, at one batch size, on one core or on the whole processor.

Writes one JSON file with a row for every layout that was tried, whatever became of it: a case that cannot run, crashes,
hangs, fills the memory or computes something else has a row with that status and its reason, and no speed. Only wrong
input of this program itself is an error.

Every layout runs in fresh processes, each pinned to its cores, one case at a time on the machine (a lock guards that).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sparsemark.files import InputError, atomic_path, exclusive_lock, run_program
from sparsemark.measuring.case import case_arguments, case_record, case_request, model_sha256, obstacle, positive
from sparsemark.measuring.engine_process import run_instances
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

#: Percentile: the smallest sample that supports it, as MLPerf's load generator has it.
PERCENTILE_SAMPLES = {50: 1, 90: 64, 95: 130, 99: 662}
REFERENCE_COMPUTATION = Path(__file__).with_name("reference_computation.py")


@dataclass(frozen=True)
class Measure:
    """How long a case is measured. The timed calls go on until both the time and the number of calls are reached."""

    warmup_s: float = 0.5
    warmup_samples: int = 5
    min_time_s: float = 2.0
    min_samples: int = 30
    timeout_s: float = 300.0
    memory_limit_gib: float | None = None

    @classmethod
    def from_json(cls, text: str) -> "Measure":
        """Read it from a JSON object; keys that are missing keep their defaults, `rounds` is the workflow's affair.

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
            if key == "rounds":
                continue
            if key not in names:
                raise InputError(f"--measure: unknown key {key!r} (expected some of {', '.join(names)})")
            lowest = 0 if key.startswith("warmup") else 1 if key == "min_samples" else 1e-9
            if isinstance(value, bool) or not isinstance(value, int | float) or value < lowest:
                raise InputError(f"--measure: {key}: expected a number of at least {lowest:g}, got {value!r}")
        return cls(**{key: value for key, value in values.items() if key != "rounds"})


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


def reference_gflops(cpu: int) -> float:
    """Return the speed of the reference computation on `cpu`, which shows how the machine drifts."""
    command = [sys.executable, str(REFERENCE_COMPUTATION), str(cpu)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def memory_limit_gib(measure: Measure) -> float:
    """Return what one process may allocate: the limit that was set, or nearly all the memory there is.

    Beyond that the kernel would end some process, and not always the greedy one.
    """
    if measure.memory_limit_gib is not None:
        return measure.memory_limit_gib
    return 0.9 * memory_bytes() / 2**30


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Return those percentiles of `times` (nearest rank) that their number supports, as {"p50": ...}."""
    ordered = sorted(times)
    return {
        f"p{percent}": ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
        for percent, needed in PERCENTILE_SAMPLES.items()
        if len(ordered) >= needed
    }


def summarise(results: Sequence[dict], batch_size: int) -> dict[str, object]:
    """Return throughput and latencies of the window in which all instances made timed calls.

    A call that lies partly in the window counts with that part towards the throughput; latencies are those of the
    calls that end in it. One instance alone has the whole of its calls as the window.

    Args:
        results: per instance `begin_ns` and `times_ns`, calls that follow each other without a gap.

    Raises:
        ValueError: no call lies in the window.
    """
    spans = [(result["begin_ns"], result["begin_ns"] + sum(result["times_ns"])) for result in results]
    begin, end = max(first for first, _ in spans), min(last for _, last in spans)
    calls, latencies = 0.0, []
    for result in results:
        stop = result["begin_ns"]
        for duration in result["times_ns"]:
            start, stop = stop, stop + duration
            overlap = min(stop, end) - max(start, begin)
            if overlap > 0:
                calls += overlap / duration
                if stop <= end:
                    latencies.append(duration)
    if not latencies:
        raise ValueError("the instances' timed calls do not overlap")
    summary: dict[str, object] = {
        "throughput_words_per_s": calls * batch_size / (end - begin) * 1e9,
        "window_s": (end - begin) / 1e9,
        "samples": len(latencies),
    }
    for name, value in percentiles(latencies).items():
        summary[f"latency_ms_{name}"] = value / 1e6
    return summary


def measure_layout(
    python: Path, request: dict, layout: Layout, measure: Measure, cache: Path
) -> tuple[dict[str, object], list[dict]]:
    """Measure one layout; return its row and the raw times of its instances."""
    row: dict[str, object] = {
        "layout": layout.name,
        "instances": layout.instances,
        "threads": layout.threads,
        "cpus": [list(cpus) for cpus in layout.cpu_sets],
        "core_class": layout.core_class,
        "reference_gflops": reference_gflops(layout.cpu_sets[0][0]),
        **machine_state(layout.cpu_sets[0][0]),
    }
    cpus = [number for cpu_set in layout.cpu_sets for number in cpu_set]
    before = read_counters(cpus)
    outcome = run_instances(
        python,
        request,
        layout.cpu_sets,
        timeout_s=measure.timeout_s,
        cache=cache,
        memory_gib=memory_limit_gib(measure),
    )
    row.update(changes(before, read_counters(cpus)))
    row["status"], row["reason"] = outcome.status, outcome.reason
    if outcome.status != "ok":
        return row, []
    try:
        row.update(summarise(outcome.results, request["batch_size"]))
    except ValueError as error:
        row.update(status="failed", reason=str(error))
        return row, []
    first = outcome.results[0]
    for key in ("import_s", "load_s", "first_inference_ms"):
        row[key] = max(result[key] for result in outcome.results)
    row["warmup_calls"] = min(result["warmup_calls"] for result in outcome.results)
    row["peak_memory_mib"] = round(sum(result["peak_memory_mib"] for result in outcome.results), 1)
    row["busy_threads"] = sum(result["busy_threads"] for result in outcome.results)
    for key in ("frequency_begin_mhz", "frequency_end_mhz"):
        # Whether the kernel tells is a matter of the machine, not of the instance.
        row[key] = min((result[key] for result in outcome.results if result[key] is not None), default=None)
    row["parity"] = first["parity"]
    row["execution"] = first["execution"]
    raw = [{key: result[key] for key in ("begin_ns", "times_ns", "cpu_s")} for result in outcome.results]
    return row, raw


def write_compact(path: Path, value: object) -> None:
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
    parser.add_argument("--round", required=True, type=positive, metavar="N", help="for the row")
    defaults = json.dumps(asdict(Measure()))
    parser.add_argument("--measure", default="{}", metavar="JSON", help=f"how long; missing keys default to {defaults}")
    options = parser.parse_args(arguments)
    measure = Measure.from_json(options.measure)
    request = {**case_request(options, "benchmark"), "measure": asdict(measure)}
    record = machine_record()
    case = {
        **case_record(options),
        "cores": options.cores,
        "round": options.round,
        "machine": machine_name(record),
        "model_sha256": "",
    }
    rows: list[dict] = []
    raw_times: dict[str, list] = {}
    with alone_on_the_machine():
        started_at = time.time()
        if outcome := obstacle(options):
            rows.append({"layout": "", **machine_state(0), "status": outcome.status, "reason": outcome.reason})
        else:
            case["model_sha256"] = model_sha256(options.model)
            limits = [limit for limit in (record["cpu_quota"], options.max_cores) if limit is not None]
            for layout in plan_layouts(read_cpus(), options.cores, min(limits, default=None)):
                row, raw_times[layout.name] = measure_layout(options.python, request, layout, measure, options.cache)
                row["doubts"] = "; ".join(doubts(record, row))
                rows.append(row)
                speed = f"{row['throughput_words_per_s']:,.0f} words/s" if row["status"] == "ok" else row["reason"]
                print(f"{options.engine} {layout.name}: {row['status']}, {speed}", file=sys.stderr)
    result = {
        "case": case,
        "measure": asdict(measure),
        "machine": record,
        "started_at": started_at,
        "ended_at": time.time(),
        "rows": rows,
        "raw_times": raw_times,
    }
    write_compact(options.out, result)


if __name__ == "__main__":
    run_program(main)

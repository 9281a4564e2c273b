"""Turns: of several groups of processes one runs at a time, for a moment, while the others stand still.

What drifts on a machine (its clock, its neighbours, the temperature) is the same for two turns that follow each other,
and cancels in their ratio. docs/measuring.md tells why this is how speed is measured. Standard library only.
"""

import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsemark.measuring.engine_process import Group

#: The group that every other group's speed is divided by.
REFERENCE = "reference"
#: A turn begins with untimed calls for this share of its length: the caches are full of another group's data.
SETTLING = 0.2
#: Instances that run side by side are timed while all of them run. Their turn is this many calls long at least.
CALLS_TOGETHER = 2
#: Percentile: the smallest sample that supports it, as MLPerf's load generator has it.
PERCENTILE_SAMPLES = {50: 1, 90: 64, 95: 130, 99: 662}


@dataclass(frozen=True)
class Contestant:
    """A group and what its turns are like."""

    group: Group
    batch_size: int
    seconds: float


@dataclass(frozen=True)
class Turn:
    """What a group did in one turn: its speed while all its instances ran, and every call of each instance."""

    words_per_s: float
    window_s: float
    latencies_ns: list[int]
    raw: list[dict]


#: One turn of every group, by the group's name.
Cycle = dict[str, Turn]


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Return those percentiles of `times` (nearest rank) that their number supports, as {"p50": ...}."""
    ordered = sorted(times)
    return {
        f"p{percent}": ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
        for percent, needed in PERCENTILE_SAMPLES.items()
        if len(ordered) >= needed
    }


def span_of_median(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return two of `values` between which their median lies with at least `confidence`; None if they are too few.

    It asks nothing of their distribution: each lies above the median with probability one half, so the k-th smallest
    and the k-th largest of n miss it with twice the probability of fewer than k heads in n tosses. Five values never
    reach 95 %.
    """
    ordered, count = sorted(values), len(values)
    heads, rank = 0.0, 0
    while (heads := heads + math.comb(count, rank) / 2**count) <= (1 - confidence) / 2:
        rank += 1
    return (ordered[rank - 1], ordered[count - rank]) if rank else None


def joint_turn(results: Sequence[dict], batch_size: int) -> Turn:
    """Return the turn of a group, timed in the window in which all its instances made timed calls.

    A call that lies partly in the window counts with that part; latencies are those of the calls that end in it. One
    instance alone has the whole of its calls as the window.

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
    seconds = (end - begin) / 1e9
    return Turn(calls * batch_size / seconds, seconds, latencies, list(results))


def enter(group: Group, batch_size: int, turn_s: float, warmup_s: float, warmup_samples: int) -> Contestant:
    """Wait until a group has loaded, warm it up, stop it, and return it with the length of its turns."""
    group.answers()
    call_s = max(answer["call_ns"] for answer in group.ask(warm_up=[warmup_s, warmup_samples])) / 1e9
    group.pause()
    together = CALLS_TOGETHER * call_s if len(group.instances) > 1 else 0.0
    return Contestant(group, batch_size, max(turn_s, together))


def take_turn(contestant: Contestant) -> Turn:
    """Let one group run for its turn.

    Raises:
        Ended: an instance ended.
        ValueError: the instances' calls do not overlap.
    """
    contestant.group.resume()
    begin = time.monotonic_ns() + int(SETTLING * contestant.seconds * 1e9)
    results = contestant.group.ask(turn=[begin, begin + int(contestant.seconds * 1e9)])
    contestant.group.pause()
    return joint_turn(results, contestant.batch_size)


def log_ratios(cycles: Sequence[Cycle], name: str) -> list[float]:
    """Return, per cycle, the logarithm of a group's speed over the reference's."""
    return [math.log(cycle[name].words_per_s / cycle[REFERENCE].words_per_s) for cycle in cycles]


def is_narrow(logs: Sequence[float], precision: float) -> bool:
    """Tell whether the median of `logs` is known to about +-`precision`."""
    span = span_of_median(logs)
    return span is not None and span[1] - span[0] <= 2 * precision


def take_turns(
    contestants: Mapping[str, Contestant], case: str, order: random.Random, *, precision: float, budget_s: float
) -> list[Cycle]:
    """Let all groups take turns until the median of `case`'s ratio to the reference is known to +-`precision`.

    Args:
        contestants: by name, the reference among them, all of them stopped.
        order: shuffles the groups of each cycle.
        budget_s: the last cycle begins before this many seconds have passed.

    Raises:
        Ended: an instance ended.
        ValueError: there is no cycle in which every group had a speed.
    """
    end = time.monotonic() + budget_s
    cycles: list[Cycle] = []
    names = list(contestants)
    while not cycles or not is_narrow(log_ratios(cycles, case), precision):
        order.shuffle(names)
        try:
            cycles.append({name: take_turn(contestants[name]) for name in names})
        except ValueError:
            if time.monotonic() > end and not cycles:
                raise
        if time.monotonic() > end:
            break
    return cycles


def speed(cycles: Sequence[Cycle], name: str) -> float:
    """Return the median speed of a group over its turns in words/s."""
    return statistics.median(cycle[name].words_per_s for cycle in cycles)

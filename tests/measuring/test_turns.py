"""Taking turns: what a turn's speed is, when there have been enough, and that nobody runs who has no turn."""

import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sparsemark.measuring.engine_process import Ended, Group
from sparsemark.measuring.turns import (
    Contestant,
    Turn,
    is_narrow,
    joint_turn,
    log_ratios,
    percentiles,
    span_of_median,
    take_turns,
)

SECOND = 1_000_000_000


def test_percentiles_need_their_samples():
    assert percentiles([3.0]) == {"p50": 3.0}
    assert set(percentiles(range(64))) == {"p50", "p90"}
    assert percentiles(range(1, 1001)) == {"p50": 500, "p90": 900, "p95": 950, "p99": 990}


def test_one_instance_has_all_its_calls_as_the_window():
    results = [{"begin_ns": 7, "times_ns": [SECOND, 3 * SECOND]}]
    assert joint_turn(results, 64) == Turn(32.0, 4.0, [SECOND, 3 * SECOND], results)


def test_several_instances_count_in_their_common_window():
    early = {"begin_ns": 0, "times_ns": [SECOND] * 10}  # 0 to 10 s, one call a second
    late = {"begin_ns": 5 * SECOND // 2, "times_ns": [SECOND // 2] * 20}  # 2.5 to 12.5 s, two calls a second
    turn = joint_turn([early, late], 1)
    assert turn.window_s == 7.5
    assert turn.words_per_s == pytest.approx(3)
    # Of the early one, the calls that end at 3 to 10 s; of the late one, those that end at 3 to 10 s.
    assert len(turn.latencies_ns) == 8 + 15


def test_instances_that_do_not_overlap_have_no_speed():
    with pytest.raises(ValueError, match="do not overlap"):
        joint_turn([{"begin_ns": 0, "times_ns": [10]}, {"begin_ns": 20, "times_ns": [10]}], 1)


@pytest.mark.parametrize("count", [1, 5, 6, 7, 20, 101])
def test_the_span_of_a_median_agrees_with_scipy(count):
    values = np.random.default_rng(count).standard_cauchy(count)
    span = span_of_median(values)
    expected = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    if np.isnan([expected.low, expected.high]).any():
        assert span is None and count < 6
    else:
        assert span == (expected.low, expected.high)


def test_a_median_is_narrow_when_its_span_is():
    assert not is_narrow([0.0] * 5, 0.02)
    assert is_narrow([0.0] * 6, 0.02)
    assert is_narrow([-0.019, 0.019] * 3, 0.02)
    assert not is_narrow([-0.021, 0.021] * 3, 0.02)


class Script:
    """A group without processes: every turn does one call, of the next of some durations, on a clock of its own."""

    instances = (None,)

    def __init__(self, name, durations, log):
        self.name, self.durations, self.log = name, iter(durations), log

    def resume(self):
        self.log.append(f"+{self.name}")

    def pause(self):
        self.log.append(f"-{self.name}")

    def ask(self, turn):
        duration = next(self.durations)
        if duration is None:
            return [{"begin_ns": 0, "times_ns": [1]}, {"begin_ns": 5, "times_ns": [1]}]
        return [{"begin_ns": 0, "times_ns": [duration]}]


def turns_of(case, reference, **options):
    log = []
    groups = {"case": Script("case", case, log), "reference": Script("reference", reference, log)}
    contestants = {name: Contestant(group, 2, 0.001) for name, group in groups.items()}
    return take_turns(contestants, "case", random.Random(1), **{"precision": 0.02, "budget_s": 60} | options), log


def test_turns_go_on_until_the_median_is_known():
    cycles, log = turns_of([2] * 100, [1] * 100)
    assert len(cycles) == 6  # fewer cannot reach 95 %
    assert log_ratios(cycles, "case") == [pytest.approx(-np.log(2))] * 6
    # One at a time, in no fixed order.
    assert log[1::2] == [f"-{start[1:]}" for start in log[::2]]
    assert {log[4 * number] for number in range(6)} == {"+case", "+reference"}


def test_turns_end_with_the_budget():
    durations = [2, 4] * 10_000
    cycles, _ = turns_of(durations, [1] * 20_000, budget_s=0.05)
    assert len(cycles) >= 1
    assert len(turns_of(durations, [1] * 20_000, budget_s=0)[0]) == 1


def test_a_turn_without_a_window_is_left_out():
    cycles, _ = turns_of([None, 2, None] + [2] * 9, [1] * 20)
    assert len(cycles) == 6
    with pytest.raises(ValueError, match="do not overlap"):
        turns_of([None] * 1000, [1] * 1000, budget_s=0)


SPINNING = """
import json, sys, threading, time
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
print(json.dumps({"answer": {}}), flush=True)
for line in sys.stdin:
    print(json.dumps({"answer": {"cpu": time.process_time()}}), flush=True)
"""


def test_a_paused_group_does_nothing(tmp_path, monkeypatch):
    worker = tmp_path / "spinning.py"
    worker.write_text(SPINNING)
    monkeypatch.setattr("sparsemark.measuring.engine_process.WORKER", worker)
    with Group(Path(sys.executable), {"threads": 1}, [None, None], timeout_s=30, cache=tmp_path) as group:
        group.answers()
        group.pause()
        used = [cpu_ticks(instance.process.pid) for instance in group.instances]
        time.sleep(0.3)
        assert [cpu_ticks(instance.process.pid) for instance in group.instances] == used
        group.resume()
        before = [answer["cpu"] for answer in group.ask(go=1)]
        time.sleep(0.3)
        assert all(after["cpu"] > cpu for after, cpu in zip(group.ask(go=1), before, strict=True))
        group.instances[0].process.kill()
        with pytest.raises(Ended):
            group.ask(go=1)
        group.pause()  # the dead do not keep it waiting


def cpu_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])

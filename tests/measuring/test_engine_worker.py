"""What the worker does between loading and its result, against plain references."""

import itertools
import os
import threading

import numpy as np
import pytest

from engine_worker import (
    MINIMUM_BATCHES,
    POOL_CLIPS,
    ParityError,
    aligned_empty,
    busy_threads,
    check_parity,
    compare,
    in_batches,
    infer,
    thread_seconds,
    timed_calls,
    timing_batches,
    warm_up,
)


class Clock:
    """A clock that only calls of `work` move."""

    def __init__(self, durations):
        self.now, self.durations, self.inputs = 1000, itertools.cycle(durations), []

    def __call__(self):
        return self.now

    def work(self, x):
        self.inputs.append(x)
        self.now += next(self.durations)


def test_timed_calls_begin_and_end_by_the_clock():
    clock, inputs = Clock([10]), itertools.cycle("ab")
    assert timed_calls(clock.work, inputs, 1035, 1075, clock) == (1040, [10] * 4)
    # The next turn goes on with the next input.
    assert clock.inputs[-1] == "b"
    timed_calls(clock.work, inputs, 0, 0, clock)
    assert clock.inputs[-2:] == ["a", "b"]


def test_a_turn_has_an_untimed_and_a_timed_call_at_least():
    clock = Clock([500, 700])
    assert timed_calls(clock.work, itertools.cycle("a"), 1010, 1020, clock) == (1500, [700])


def test_times_are_in_order_and_add_up():
    clock = Clock([5, 7, 11])
    begin, times = timed_calls(clock.work, itertools.cycle("ab"), 1000, 1030, clock)
    assert (begin, times) == (1005, [7, 11, 5, 7])
    assert begin + sum(times) == clock.now


def test_warm_up_reaches_both_the_time_and_the_number():
    clock = Clock([10])
    assert warm_up(clock.work, itertools.cycle("a"), 45e-9, 2, clock) == 5
    assert warm_up(clock.work, itertools.cycle("a"), 0, 2, clock) == 2


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_hold_all_clips_padded_and_aligned(batch_size):
    x = np.random.default_rng(0).standard_normal((10, 1, 4, 4), np.float32)
    batches = in_batches(x, batch_size)
    flat = batches.reshape(-1, 1, 4, 4)
    assert np.array_equal(flat[:10], x)
    assert not flat[10:].any()
    assert batches.ctypes.data % 64 == 0 and batches.flags.c_contiguous
    assert aligned_empty((3, 5)).shape == (3, 5)


@pytest.mark.parametrize("batch_size", [1, 64, 100, 2048])
def test_timing_walks_through_many_different_full_batches(batch_size):
    x = np.arange(1500, dtype=np.float32).reshape(-1, 1, 1, 1)
    batches = timing_batches(x, batch_size)
    assert len(batches) >= MINIMUM_BATCHES
    assert batches.size >= POOL_CLIPS
    assert len(np.unique(batches)) == min(1500, batches.size)
    assert not np.array_equal(np.sort(batches.ravel()[:100]), np.arange(100))


class Echo:
    def __init__(self, change=lambda x: x):
        self.change, self.buffer = change, None

    def run(self, x):
        self.buffer = self.change(x.reshape(len(x), -1))
        return self.buffer


def test_logits_come_back_in_order_without_the_padding():
    x = np.arange(28, dtype=np.float32).reshape(7, 1, 2, 2)
    assert np.array_equal(infer(Echo(), x, 3, (4,)), x.reshape(7, 4))


def test_outputs_may_have_any_shape():
    """As those of a network from a file; a clip's error is over all its numbers."""
    x = np.arange(1, 29, dtype=np.float32).reshape(7, 1, 2, 2)
    engine = Echo(lambda flat: flat.reshape(len(flat), 2, 2))
    found = infer(engine, x, 3, (2, 2))
    assert np.array_equal(found, x[:, 0])
    assert compare(1.5 * found, found) == {"relative_error": pytest.approx(0.5), "agreement": 1.0}
    with pytest.raises(ParityError, match=r"expected float32 \(3, 4\)"):
        infer(engine, x, 3, (4,))


def test_timing_walks_through_few_clips_if_they_are_large():
    x = np.zeros((40, 3, 256, 256), np.float32)
    assert sum(map(len, timing_batches(x, 1))) == MINIMUM_BATCHES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :3], "expected float32"),
        (lambda x: x.astype(np.float64), "float64"),
        (lambda x: x + np.float32(np.inf), "not finite"),
        (lambda x: np.negative(x, out=x), "changed its input"),
    ],
)
def test_an_engine_that_breaks_the_protocol_fails_parity(change, message):
    x = np.ones((4, 1, 2, 2), np.float32)
    with pytest.raises(ParityError, match=message):
        infer(Echo(change), x, 2, (4,))


def test_compare_takes_the_median_clip():
    reference = np.eye(12, dtype=np.float32)
    logits = reference.copy()
    logits[0] = np.roll(logits[0], 1)
    assert compare(logits, reference) == {"relative_error": 0.0, "agreement": pytest.approx(11 / 12)}
    assert compare(reference * 1.5, reference)["relative_error"] == pytest.approx(0.5)


def test_tolerances_tell_the_precisions_apart():
    rng = np.random.default_rng(0)
    reference = np.eye(12, dtype=np.float32)[rng.integers(0, 12, 256)] * 5 + rng.standard_normal((256, 12), np.float32)
    for error, passes in ((1e-6, "fp32"), (5e-3, "bf16"), (0.1, "int8")):
        logits = reference * (1 + np.float32(error))
        check_parity(logits, reference, passes)
        for stricter in ("fp32", "bf16", "int8")[: ("fp32", "bf16", "int8").index(passes)]:
            with pytest.raises(ParityError, match="relative error"):
                check_parity(logits, reference, stricter)
    with pytest.raises(ParityError, match="same class"):
        check_parity(reference[:, ::-1] * 1e-6 + reference * 0, reference, "int8")


def test_without_labels_the_largest_output_is_no_class():
    reference = np.array([[1.0, 1.001], [1.001, 1.0]] * 20, np.float32)
    swapped = np.ascontiguousarray(reference[:, ::-1])
    with pytest.raises(ParityError, match=r"same class 0\.0%"):
        check_parity(swapped, reference, "int8")
    assert check_parity(swapped, reference, "int8", labelled=False)["agreement"] == 0
    with pytest.raises(ParityError, match=r"relative error 0\.5 \(at most 0\.25\)$"):
        check_parity(0.5 * reference, reference, "int8", labelled=False)


def test_threads_that_compute_are_told_from_those_that_wait():
    before = {"main": 5.0, "pool": 1.0, "ended": 3.0}
    # A busy machine gives each of them little of the time; their shares of each other stay.
    for slow in (1, 100):
        after = {"main": 5.0 + 2 / slow, "pool": 1.0 + 1.5 / slow, "late": 0.7 / slow, "waits": 0.02 / slow}
        assert busy_threads(before, after) == 3
    assert busy_threads(before, before) == 0


def test_the_cpu_time_of_a_thread_is_its_own():
    begin = thread_seconds()
    worker = threading.Thread(target=lambda: sum(range(3_000_000)))
    sleeper = threading.Event()
    waiting = threading.Thread(target=sleeper.wait)
    waiting.start()
    worker.start()
    worker.join()
    sum(range(3_000_000))
    end = thread_seconds()
    sleeper.set()
    waiting.join()
    assert end[str(os.getpid())] > begin[str(os.getpid())]
    assert busy_threads(begin, end) == 1

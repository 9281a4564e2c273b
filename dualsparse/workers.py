"""Threads that compute beside the caller: a `Team` where the whole network is one compiled program, else `Workers`.

A process that is forked has none of its parent's threads: it starts its own when it first needs them.

A batch takes a few hundred microseconds. `concurrent.futures` costs 10 µs more than `Workers`, and these cost 40 µs
more than a `Team`: a thread has to be woken, and to get Python's lock from the caller, before it begins.
"""

import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from dualsparse.kernels import CompiledProgram
from dualsparse.kernels.compilation import aligned
from dualsparse.kernels.handover import SLOT_BYTES, post, wait


class _Pool:
    """Threads that are started when they are needed: at first, and once more in a process that was forked."""

    def __init__(self) -> None:
        self._forget()
        _POOLS.add(self)

    def _forget(self) -> None:
        """Begin anew: without threads, and with a lock that no thread of another process holds."""
        self._free, self._started = threading.Lock(), False


_POOLS: "weakref.WeakSet[_Pool]" = weakref.WeakSet()


def _forget_threads() -> None:
    for pool in _POOLS:
        pool._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class Job:
    """A call that a worker makes."""

    def __init__(self, function: Callable[..., Any], arguments: tuple) -> None:
        self._function, self._arguments = function, arguments
        self._result: Any = None
        self._error: BaseException | None = None
        self._running = threading.Lock()
        self._running.acquire()

    def run(self) -> None:
        try:
            self._result = self._function(*self._arguments)
        except BaseException as error:  # it is raised where the result is asked for
            self._error = error
        self._running.release()

    def result(self) -> Any:
        """Wait for the call and return its result, or raise what it raised. May be called once."""
        self._running.acquire()
        if self._error is not None:
            raise self._error
        return self._result


class Workers(_Pool):
    """A number of threads that take jobs from one queue; they end with this object."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def _start(self) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        for _ in range(self._count):
            threading.Thread(target=_work, args=(self._jobs,), name="dualsparse", daemon=True).start()
        weakref.finalize(self, _stop, self._jobs, self._count)
        self._started = True

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Job:
        """Have a worker call `function(*arguments)`."""
        job = Job(function, arguments)
        with self._free:
            if not self._started:
                self._start()
        self._jobs.put(job)
        return job


# The threads know the queue only: with a reference to `Workers` they would keep it alive.
def _work(jobs: "queue.SimpleQueue[Job | None]") -> None:
    while (job := jobs.get()) is not None:
        job.run()
        # While it waits for the next job, a thread must not keep an engine or its arrays alive.
        del job


def _stop(jobs: "queue.SimpleQueue[Job | None]", count: int) -> None:
    for _ in range(count):
        jobs.put(None)


@dataclass(frozen=True)
class _Share:
    """What a worker of a team computes of each batch: the samples from `start` to `stop`."""

    slot: int  # its address, see `kernels.handover`
    start: int
    stop: int
    sleeper: "queue.SimpleQueue[bool]"  # where the worker sleeps: True wakes it, False ends it
    thread: threading.Thread


class Team(_Pool):
    """Threads that wait for their share of a batch inside a compiled program, without Python's lock (Linux only).

    A thread looks out for its next share for about 0.1 ms, then sleeps. The threads end with this object.
    """

    def __init__(self, program: CompiledProgram, chunks: Sequence[tuple[int, int]]) -> None:
        """Have a thread for every share of a batch but the first, which is the caller's.

        Args:
            chunks: the samples of each share as (start, stop).
        """
        super().__init__()
        self._program = program
        (_, self._own), *self._others = chunks

    def _start(self) -> None:
        slots = aligned(np.zeros(len(self._others) * SLOT_BYTES, np.uint8))
        slots.view(np.int64)[5 :: SLOT_BYTES // 8] = -1  # seen on no core yet
        self._shares = []
        for number, (start, stop) in enumerate(self._others):
            slot, sleeper = slots.ctypes.data + number * SLOT_BYTES, queue.SimpleQueue()
            # As above, the thread doesn't know its `Team`. It holds the slots, so that they outlast its last look.
            arguments = (sleeper, self._program.server(slot), slots)
            thread = threading.Thread(target=_serve, args=arguments, name="dualsparse", daemon=True)
            thread.start()
            self._shares.append(_Share(slot, start, stop, sleeper, thread))
        weakref.finalize(self, _end, [share.sleeper for share in self._shares])
        self._started = True

    def __call__(self, x: np.ndarray, out: np.ndarray) -> int:
        """Run a batch, as the program does. While another thread's call goes on, the caller computes alone."""
        if not self._free.acquire(blocking=False):
            return self._program(x, out)
        posted, cores = [], set()
        try:
            if not self._started:
                self._start()
            for share in self._shares:
                posted.append(share.slot)
                asleep, core, own_core = post(share.slot, x, out, share.start, share.stop)
                cores.add(own_core)
                if core in cores:
                    _separate(share, asleep, cores)
                elif asleep:
                    share.sleeper.put(True)
                cores.add(core)
            status = self._program(x[: self._own], out[: self._own])
        except BaseException:
            # One may have got its share and not been woken.
            for share in self._shares:
                share.sleeper.put(True)
            raise
        finally:
            # Also if something interrupts the caller: a worker must not be left with arrays that are gone.
            others = [wait(slot) for slot in posted]
            self._free.release()
        return max(status, *others)


def _separate(share: _Share, asleep: bool, cores: set[int]) -> None:
    """Bring a worker, and wake it, to a core that no other thread of its team is on, if there is one.

    The system leaves threads that work for less than a millisecond at a time where they are, even two on a core.
    """
    thread, others = share.thread.native_id, set()
    # A thread whose cores somebody takes away meanwhile stays where it is put.
    with suppress(OSError):
        allowed = os.sched_getaffinity(thread)
        if others := allowed - cores:
            os.sched_setaffinity(thread, others)
    if asleep:
        share.sleeper.put(True)
    if others:
        with suppress(OSError):
            os.sched_setaffinity(thread, allowed)


def _serve(sleeper: "queue.SimpleQueue[bool]", serve: Callable[[], None], slots: np.ndarray) -> None:
    while sleeper.get():
        serve()


def _end(sleepers: "list[queue.SimpleQueue[bool]]") -> None:
    for sleeper in sleepers:
        sleeper.put(False)

"""Threads that compute beside the caller.

`concurrent.futures` would do, but costs 10 µs more per batch, and a batch takes a few hundred.
"""

import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any


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


class Workers:
    """A number of threads that take jobs from one queue; they end with this object."""

    def __init__(self, count: int) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        for _ in range(count):
            threading.Thread(target=_work, args=(self._jobs,), name="dualsparse", daemon=True).start()
        weakref.finalize(self, _stop, self._jobs, count)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Job:
        """Have a worker call `function(*arguments)`."""
        job = Job(function, arguments)
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

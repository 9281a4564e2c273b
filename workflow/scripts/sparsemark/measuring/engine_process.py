"""Run instances of `engine_worker.py` and learn how they ended, whatever they do. Standard library only; Linux.

An engine may crash, hang, fill the memory or print anything: each becomes an `Outcome` with a status and a reason.
"""

import ctypes
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from sparsemark.measuring.outcome import Outcome, from_exit, timed_out

WORKER = Path(__file__).parents[2] / "engine_worker.py"
#: Thread counts, for every library that reads them before it is loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TVM_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
#: Settings of the caller that would change how an engine pins its threads or which packages it finds.
FOREIGN_VARIABLES = (
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "GOMP_CPU_AFFINITY",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
)
_SET_PARENT_DEATH_SIGNAL = 1
_LIBC = ctypes.CDLL(None)


class Instance:
    """One worker process in its own process group, pinned before it starts."""

    def __init__(
        self,
        python: Path,
        request: dict,
        cpus: Sequence[int] | None,
        memory_gib: float | None,
        cache: Path,
        log: BinaryIO,
    ) -> None:
        threads = str(request["threads"])
        environment = {key: value for key, value in os.environ.items() if key not in FOREIGN_VARIABLES}
        environment.update(dict.fromkeys(THREAD_VARIABLES, threads))
        environment.update(SPARSEMARK_CACHE=str(cache), PYTHONNOUSERSITE="1", PYTHONUNBUFFERED="1")

        def before_start() -> None:
            # The worker must not outlive this program, however that dies.
            _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
            if cpus is not None:
                os.sched_setaffinity(0, cpus)
            if memory_gib is not None:
                # RLIMIT_DATA counts what a process may write to; RLIMIT_AS would count mere reservations, too.
                limit = int(memory_gib * 2**30)
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        self.log = log
        self.process = subprocess.Popen(
            [str(python), str(WORKER)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            preexec_fn=before_start,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.buffer = b""
        self.step = "starting"
        self.ready = False
        self.end: dict | None = None
        self.tell(json.dumps(request))

    def tell(self, line: str) -> None:
        """Send one line; a worker that is gone shows by its end, not here."""
        with suppress(BrokenPipeError):
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def read_events(self) -> bool:
        """Take in what the worker has written; return False at the end of its output."""
        chunk = os.read(self.process.stdout.fileno(), 1 << 20)
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            self.step = event.get("step", self.step)
            self.ready = self.ready or event.get("ready", False)
            if "status" in event:
                self.end = event
        return bool(chunk)

    def log_text(self) -> str:
        """Return the end of what the worker and its engine wrote to standard error."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - 16384))
        return self.log.read().decode(errors="replace")

    def outcome(self, deadline: float) -> Outcome:
        """Return how this worker ended; it has said so or has closed its output. A timeout's reason is its step."""
        if self.end is not None:
            status, reason = self.end["status"], self.end["reason"]
            return Outcome(status, reason, [self.end["result"]] if status == "ok" else [])
        try:
            code = self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return Outcome("timeout", self.step)
        return from_exit(code, self.log_text(), self.step)

    def kill(self) -> None:
        """End the worker and every process that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                stream.close()


def run_instances(
    python: Path,
    request: dict,
    cpu_sets: Sequence[Sequence[int] | None],
    *,
    timeout_s: float,
    cache: Path,
    memory_gib: float | None = None,
) -> Outcome:
    """Run `request` in one worker per CPU set (None: not pinned) and return how it ended.

    `threads` of the request is the size of the CPU set. Workers that ask for it are told to go together, once all of
    them are ready. The first worker that fails ends the others.

    Args:
        timeout_s: for the whole case; then every worker is killed.
        memory_gib: what each worker may allocate.
        cache: folder where engines keep compiled code.
    """
    deadline = time.monotonic() + timeout_s
    instances: list[Instance] = []
    with ExitStack() as stack:
        try:
            for cpus in cpu_sets:
                case = {**request, "threads": request["threads"] if cpus is None else len(cpus)}
                log = stack.enter_context(tempfile.TemporaryFile())
                instances.append(Instance(python, case, cpus, memory_gib, cache, log))
                stack.callback(instances[-1].kill)
        except (OSError, subprocess.SubprocessError) as error:
            return Outcome("failed", f"{python} cannot be started: {error}")
        outcome = _wait(instances, deadline)
        if outcome.status == "timeout":
            outcome = timed_out(outcome.reason, timeout_s)
        if outcome.status != "ok":
            for instance in instances:
                sys.stderr.write(instance.log_text()[-4000:])
        return outcome


def _wait(instances: list[Instance], deadline: float) -> Outcome:
    going = False
    with selectors.DefaultSelector() as selector:
        for instance in instances:
            selector.register(instance.process.stdout, selectors.EVENT_READ, instance)
        while selector.get_map():
            events = selector.select(max(0.0, deadline - time.monotonic()))
            if not events:
                steps = sorted({key.data.step for key in selector.get_map().values()})
                return Outcome("timeout", ", ".join(steps))
            for key, _ in events:
                instance = key.data
                open_ended = instance.read_events()
                if open_ended and instance.end is None:
                    continue
                # A worker is done with its last event: some engines hang or crash when their process ends.
                selector.unregister(instance.process.stdout)
                outcome = instance.outcome(deadline)
                if outcome.status != "ok":
                    return outcome
            if not going and all(instance.ready for instance in instances):
                going = True
                for instance in instances:
                    instance.tell("go")
    return Outcome("ok", "", [instance.end["result"] for instance in instances])

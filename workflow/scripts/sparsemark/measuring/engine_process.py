"""Run instances of `engine_worker.py` and learn how they ended, whatever they do. Standard library only; Linux.

An engine may crash, hang, fill the memory or print anything: each becomes an `Outcome` with a status and a reason.
Between its turns a `Group` of instances is stopped by the system, so that no thread of it spins beside another's turn.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

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


class Ended(Exception):
    """A group ended before it was told to; `outcome` says how."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class Instance:
    """One worker process in its own process group, pinned before it starts."""

    def __init__(
        self,
        python: Path,
        request: dict,
        cpus: Sequence[int] | None,
        memory_gib: float | None,
        cache: Path,
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

        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - `kill` closes it
        self.process = subprocess.Popen(
            [str(python), str(WORKER)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,
            preexec_fn=before_start,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.buffer = b""
        self.step = "starting"
        self.answer: dict | None = None
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
            self.answer = event.get("answer", self.answer)
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
            return Outcome(self.end["status"], self.end["reason"])
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
        self.log.close()


class Group:
    """The instances of one case that fill its share of the processor together. Leaving the context ends them.

    Args:
        cpu_sets: the CPUs of each instance; None leaves it unpinned. `threads` of the request is the size of its set.
        role: what every reason of this group begins with, if it is not the case itself.
        timeout_s: for starting and loading, and again for every command.
        memory_gib: what each instance may allocate.
        cache: folder where engines keep compiled code.
    """

    def __init__(
        self,
        python: Path,
        request: dict,
        cpu_sets: Sequence[Sequence[int] | None],
        *,
        timeout_s: float,
        cache: Path,
        memory_gib: float | None = None,
        role: str = "",
    ) -> None:
        self.role = role
        self.timeout_s = timeout_s
        self.instances: list[Instance] = []
        try:
            for cpus in cpu_sets:
                case = {**request, "threads": request["threads"] if cpus is None else len(cpus)}
                self.instances.append(Instance(python, case, cpus, memory_gib, cache))
        except (OSError, subprocess.SubprocessError) as error:
            self.kill()
            raise Ended(Outcome("failed", f"{role}{python} cannot be started: {error}")) from error

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        for instance in self.instances:
            instance.kill()

    def answers(self) -> list[dict]:
        """Wait until every instance has answered, and return the answers.

        Raises:
            Ended: one of them ended, or has not answered in time.
        """
        self._wait(lambda instance: instance.answer is not None)
        found = [instance.answer for instance in self.instances]
        for instance in self.instances:
            instance.answer = None
        return found

    def ask(self, **command: object) -> list[dict]:
        """Send a command to every instance and return their `answers`."""
        for instance in self.instances:
            instance.tell(json.dumps(command))
        return self.answers()

    def finish(self) -> list[dict]:
        """Tell every instance, stopped or not, to end, and return the `results`."""
        self.resume()
        for instance in self.instances:
            instance.tell(json.dumps({"end": True}))
        return self.results()

    def results(self) -> list[dict]:
        """Wait until every instance has done its work, and return the results.

        Raises:
            Ended: one of them ended otherwise.
        """
        self._wait(lambda instance: instance.end is not None)
        return [instance.end["result"] for instance in self.instances]

    def pause(self) -> None:
        """Stop every thread of every instance, and wait until they stand still."""
        for instance in self.instances:
            self._signal(instance, signal.SIGSTOP)
        for instance in self.instances:
            # Without WNOWAIT the end of a process would be taken from `subprocess`, which may have it already.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, instance.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let every thread go on."""
        for instance in self.instances:
            self._signal(instance, signal.SIGCONT)

    @staticmethod
    def _signal(instance: Instance, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(instance.process.pid, number)

    def _wait(self, done: Callable[[Instance], bool]) -> None:
        deadline = time.monotonic() + self.timeout_s
        try:
            self._read_until(done, deadline)
        except Ended as ended:
            if ended.outcome.status == "timeout":
                ended.outcome = timed_out(ended.outcome.reason, self.timeout_s)
            ended.outcome.reason = self.role + ended.outcome.reason
            for instance in self.instances:
                sys.stderr.write(instance.log_text()[-4000:])
            raise

    def _read_until(self, done: Callable[[Instance], bool], deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            for instance in self.instances:
                if not done(instance):
                    selector.register(instance.process.stdout, selectors.EVENT_READ, instance)
            while selector.get_map():
                events = selector.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    steps = sorted({key.data.step for key in selector.get_map().values()})
                    raise Ended(Outcome("timeout", ", ".join(steps)))
                for key, _ in events:
                    instance = key.data
                    open_ended = instance.read_events()
                    # A worker is done with its last event: some engines hang or crash when their process ends.
                    if instance.end is not None or not open_ended:
                        outcome = instance.outcome(deadline)
                        if outcome.status != "ok":
                            raise Ended(outcome)
                    if done(instance):
                        selector.unregister(instance.process.stdout)
                    elif not open_ended:
                        raise Ended(Outcome("failed", f"ended during {instance.step}"))

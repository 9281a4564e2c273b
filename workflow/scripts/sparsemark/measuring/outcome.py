"""How something ended that may go wrong in any way: a status for the results, and a reason. Standard library only.

Engines and the tools that prepare models crash, hang, fill the memory, or say in a thousand words that a header is
missing. Whoever runs one, in a process or in this one, decides here what the row shows.
"""

import re
import signal
from dataclasses import dataclass

#: The ends that a case can have, in the results.
STATUSES = ("ok", "unsupported", "failed", "timeout", "out_of_memory")
#: How engines and compilers word it when an allocation fails, or when the kernel ended a process that they started.
OUT_OF_MEMORY = re.compile(
    r"bad_alloc|out of memory|memory exhausted|(cannot|can't) allocate memory|MemoryError|Killed signal terminated",
    re.I,
)
#: The line of a compiler or linker that tells the cause; those that follow tell its consequences.
TOOL_ERROR = re.compile(r"(^|[\s:])(fatal )?error: |undefined reference|cannot find -l")
TRACEBACK = "Traceback (most recent call last):\n"
#: What is worth adding to a signal's name.
MEANINGS = {signal.SIGILL: " (an instruction that this CPU does not have)"}
#: Characters of a reason: it is one cell of a table.
LONGEST = 300


@dataclass
class Outcome:
    """How a case ended: one of STATUSES, and why if it is not `ok`."""

    status: str
    reason: str = ""


def from_exit(code: int, log: str, doing: str) -> Outcome:
    """Return how a process ended that has not told it by itself.

    Args:
        code: its exit status, or minus the signal's number, as `subprocess` has it.
        log: the end of what it wrote.
        doing: what it was at, to stand behind "during".
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if code == 1 and lines and lines[-1].startswith("error: "):
        # One sentence of a program of ours (see files.run_program): it cannot take this network.
        return Outcome("unsupported", lines[-1].removeprefix("error: "))
    end = f"exit status {code}" if code >= 0 else signal.Signals(-code).name + MEANINGS.get(-code, "")
    reason = f"{end} during {doing}" + (f": {_cause(log)}" if lines else "")
    # Nobody but the kernel sends SIGKILL unasked, and it does so when memory runs out.
    if code == -signal.SIGKILL or OUT_OF_MEMORY.search(log):
        return Outcome("out_of_memory", reason)
    return Outcome("failed", reason)


def from_exception(error: BaseException) -> Outcome:
    """Return what an exception means for a case; it is never `unsupported`, which only we can tell."""
    text = str(error)
    out_of_memory = isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text)
    reason = telling(f"{type(error).__name__}: {text}".rstrip(": \n"))
    return Outcome("out_of_memory" if out_of_memory else "failed", reason)


def timed_out(doing: str, seconds: float) -> Outcome:
    """Return the outcome of something that was ended after `seconds`."""
    return Outcome("timeout", f"not done within {seconds:g} s; stopped during {doing}")


def telling(message: str) -> str:
    """Return `message` as one line of at most LONGEST characters that keeps what tells the cause.

    A short message is kept whole. Of a long one the beginning stays, and the line of a compiler or linker that tells
    the cause if there is one, else the end.
    """
    line = " ".join(message.split())
    if len(line) <= LONGEST:
        return line
    found = next((" ".join(line.split()) for line in message.splitlines() if TOOL_ERROR.search(line)), line)
    end = found[-(2 * LONGEST // 3) :]
    return f"{line[: LONGEST - len(end) - 3].rstrip()} … {end.lstrip()}"


def _cause(log: str) -> str:
    """Return the cause that a log ends with: of the last exception, of a compiler, or the last line."""
    if TRACEBACK in log:
        lines = log.rpartition(TRACEBACK)[2].splitlines()
        while lines and lines[0].startswith(" "):  # the stack
            del lines[0]
        return telling("\n".join(lines))
    lines = [line for line in log.splitlines() if line.strip()]
    return telling(next(filter(TOOL_ERROR.search, lines), lines[-1]))

"""What a row says about an end: of processes as the system reports them, and of texts as tools write them."""

import re
import signal
import subprocess
import sys

import pytest

from sparsemark.measuring.outcome import LONGEST, STATUSES, from_exception, from_exit, telling, timed_out

COMMAND = "g++ /tmp/abc.cpp -D TORCH_INDUCTOR_CPP_WRAPPER -I/usr/include/python3.11 " + "-I/some/where " * 40
MISSING_HEADER = "/tmp/abc.cpp:1:10: fatal error: Python.h: No such file or directory"
INDUCTOR = f"""CppCompileError: C++ compile error

Command:
{COMMAND}

Output:
In file included from /tmp/abc.cpp:1:
{MISSING_HEADER}
    1 | #include <Python.h>
compilation terminated.

Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace (please do this especially if you're filing a bug report)!
"""
LINKER = """/usr/bin/ld: cannot find -lgomp: No such file or directory
collect2: error: ld returned 1 exit status
make: *** [all] Error 1"""


def ended(program: str) -> tuple[int, str]:
    """Run a Python program; return its exit code and what it wrote."""
    result = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return result.returncode, result.stdout


def kill(name: str) -> str:
    return f"import os, signal; os.kill(os.getpid(), signal.{name})"


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("raise ValueError('no such operator')", "failed", "exit status 1 during work: ValueError: no such operator"),
        ("raise ValueError('a\\n  b')", "failed", "exit status 1 during work: ValueError: a b"),
        ("raise SystemExit('error: net.onnx: unknown operator')", "unsupported", "net.onnx: unknown operator"),
        ("print('one\\ntwo'); raise SystemExit(3)", "failed", "exit status 3 during work: two"),
        ("pass", "failed", "exit status 0 during work"),
        (kill("SIGSEGV"), "failed", "SIGSEGV during work"),
        (kill("SIGILL"), "failed", "SIGILL (an instruction that this CPU does not have) during work"),
        (kill("SIGKILL"), "out_of_memory", "SIGKILL during work"),
        ("raise MemoryError('28 GiB')", "out_of_memory", "exit status 1 during work: MemoryError: 28 GiB"),
        (f"print({LINKER!r}); raise SystemExit(2)", "failed", f"exit status 2 during work: {LINKER.splitlines()[0]}"),
        ("print('terminate called after throwing std::bad_alloc'); " + kill("SIGABRT"), "out_of_memory", "SIGABRT"),
        ("print('g++: fatal error: Killed signal terminated program cc1plus'); exit(1)", "out_of_memory", "cc1plus"),
    ],
)
def test_a_process_that_does_not_tell_how_it_ended(program, status, reason):
    outcome = from_exit(*ended(program), "work")
    assert outcome.status == status and outcome.status in STATUSES
    assert reason in outcome.reason if status == "out_of_memory" else outcome.reason == reason


def test_of_several_exceptions_the_last_one_counts():
    program = "try: 1 / 0\nexcept ZeroDivisionError: raise RuntimeError('error: of the tool\\nin two lines')"
    assert from_exit(*ended(program), "work").reason == (
        "exit status 1 during work: RuntimeError: error: of the tool in two lines"
    )


def test_a_long_reason_keeps_the_line_that_tells():
    for text in (telling(INDUCTOR), from_exception(RuntimeError(INDUCTOR)).reason):
        assert len(text) <= LONGEST and MISSING_HEADER in text and "CppCompileError: C++ compile error" in text
    code, log = ended(f"raise RuntimeError({INDUCTOR!r})")
    assert MISSING_HEADER in from_exit(code, log, "work").reason


def test_a_long_reason_without_such_a_line_keeps_both_ends():
    text = telling("Load model failed: " + "x" * 5000 + "\nUnimplemented operator TopK")
    assert len(text) <= LONGEST
    assert re.fullmatch("Load model failed: x+ … x+ Unimplemented operator TopK", text)
    assert len(telling("fatal error: " + "y" * 5000)) <= LONGEST


def test_a_short_reason_is_kept_whole():
    assert telling("a\n   b: error: c\n") == "a b: error: c"
    assert from_exception(KeyError()).reason == "KeyError"
    assert from_exception(ValueError("a\n  b")).reason == "ValueError: a b"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (ValueError("odd"), "failed"),
    ],
)
def test_an_exception_is_a_failure_or_a_lack_of_memory(error, status):
    assert from_exception(error).status == status


def test_a_timeout_tells_what_was_stopped():
    outcome = timed_out("loading the model", 2)
    assert (outcome.status, outcome.reason) == ("timeout", "not done within 2 s; stopped during loading the model")


def test_every_signal_has_a_reason():
    for number in signal.valid_signals() & set(signal.Signals):
        assert number.name in from_exit(-number, "", "work").reason

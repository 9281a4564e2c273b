"""Run an engine's own preparation of a model, and record its failure instead of stopping the study.

Quantisation and tuning tools crash, hang or refuse a network. Then the study goes on: MODEL is left empty, and
STATUS tells the reason that the rows of this engine will show, and on which CPU it was prepared.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

from sparsemark.cpu import cpu_model
from sparsemark.files import read_json, run_program, write_json
from sparsemark.measuring.outcome import Outcome, from_exit, timed_out

#: Lines of the command's output that a reason is looked for in.
LAST_LINES = 200


def attempt(command: list[str], model: Path, timeout_s: float) -> Outcome:
    """Run `command`, which writes `model`, and return how it ended; if not `ok`, the model is an empty file."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    ended_by_us = threading.Event()

    def end() -> None:
        ended_by_us.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(timeout_s, end)
    timer.start()
    lines: deque[str] = deque(maxlen=LAST_LINES)
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.append(line)
    code = process.wait()
    timer.cancel()
    if code == 0 and model.exists():
        return Outcome("ok")
    model.write_bytes(b"")
    doing = "the preparation of the model"
    return timed_out(doing, timeout_s) if ended_by_us.is_set() else from_exit(code, "".join(lines), doing)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment-status", type=Path, help="deployed.json of the environment the command needs")
    parser.add_argument(
        "--input-status", type=Path, help="status of a model that the command reads, if it may have failed"
    )
    parser.add_argument("--model", type=Path, required=True, help="the file that the command writes")
    parser.add_argument("--status", type=Path, required=True, help="JSON file for {status, reason, cpu}")
    parser.add_argument("--timeout-s", type=float, default=3600, help="end the command after this many seconds")
    parser.add_argument("command", nargs="+", help="after --: the command and its arguments")
    options = parser.parse_args(arguments)
    needed = [read_json(path) for path in (options.environment_status, options.input_status) if path]
    if failed := [record for record in needed if record["status"] != "ok"]:
        options.model.write_bytes(b"")
        outcome = Outcome(failed[0]["status"], failed[0]["reason"])
    else:
        outcome = attempt(options.command, options.model, options.timeout_s)
    write_json(options.status, {"status": outcome.status, "reason": outcome.reason, "cpu": cpu_model()})
    print(f"{options.model}: {outcome.status} {outcome.reason}")


if __name__ == "__main__":
    run_program(main)

"""Run an engine's own preparation of a model, and record its failure instead of stopping the study.

Quantisation and tuning tools crash, hang or refuse a network. Then the study goes on: MODEL is left empty, and
STATUS tells the reason that the rows of this engine will show.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from sparsemark.files import read_json, run_program, write_json


def attempt(command: list[str], model: Path, timeout_s: float) -> dict[str, str]:
    """Run `command`, which writes `model`; return {status, reason} with status ok, unsupported, failed or timeout."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    timed_out = threading.Event()

    def end() -> None:
        timed_out.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(timeout_s, end)
    timer.start()
    last_line = ""
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        last_line = line.strip() or last_line
    code = process.wait()
    timer.cancel()
    if code == 0 and model.exists():
        return {"status": "ok", "reason": ""}
    model.write_bytes(b"")
    if timed_out.is_set():
        return {"status": "timeout", "reason": f"preparing the model took more than {timeout_s:g} s"}
    if code == 1 and last_line.startswith("error: "):
        # One sentence of the tool itself (see files.run_program): it cannot take this network.
        return {"status": "unsupported", "reason": last_line.removeprefix("error: ")}
    ending = f"ended by {signal.Signals(-code).name}" if code < 0 else last_line or f"exit status {code}"
    return {"status": "failed", "reason": f"preparing the model failed: {ending}"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment-status", type=Path, help="deployed.json of the environment the command needs")
    parser.add_argument(
        "--input-status", type=Path, help="status of a model that the command reads, if it may have failed"
    )
    parser.add_argument("--model", type=Path, required=True, help="the file that the command writes")
    parser.add_argument("--status", type=Path, required=True, help="JSON file for {status, reason}")
    parser.add_argument("--timeout-s", type=float, default=3600, help="end the command after this many seconds")
    parser.add_argument("command", nargs="+", help="after --: the command and its arguments")
    options = parser.parse_args(arguments)
    needed = [read_json(path) for path in (options.environment_status, options.input_status) if path]
    if failed := [record for record in needed if record["status"] != "ok"]:
        options.model.write_bytes(b"")
        result = {key: failed[0][key] for key in ("status", "reason")}
    else:
        result = attempt(options.command, options.model, options.timeout_s)
    write_json(options.status, result)
    print(f"{options.model}: {result['status']} {result['reason']}")


if __name__ == "__main__":
    run_program(main)
